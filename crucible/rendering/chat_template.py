"""Adapter from a ``transformers`` tokenizer with a chat template to ``Tokenizer``. Does not import transformers."""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Final

from crucible.errors import InvalidRequest, Unsupported
from crucible.rendering.chat import Chat
from crucible.rendering.control_text import ControlText, encoded_apart
from crucible.rendering.output_parser import THINK_START, parse_output
from crucible.rendering.template_examples import Renderer
from crucible.rendering.tokenizer import ChatFeatures, RenderedExample, Tokenizer, TurnWeight

_IMAGE_TOKENS: Final = ("<|image_pad|>", "<|image|>", "<image>", "<image_soft_token>")
_PROBE_MESSAGE: Final = {"role": "user", "content": "q"}
_PROBE_TOOL: Final = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL: Final = {"id": "c", "type": "function", "function": {"name": "probe_tool", "arguments": {"a": 1}}}
_END_OF_TURN_TOKENS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


class TemplateTokenizer(Tokenizer):
    """A tokenizer that renders conversations with the model's chat template; ``inner`` is of ``transformers``."""

    def __init__(self, name: str, inner: Any, image_processor: Callable[[], Any] | None = None) -> None:
        """``image_processor`` loads that of the model, also of ``transformers``, when images are first counted."""
        self._name = name
        self._inner = inner
        self._load_image_processor = image_processor

    @property
    def tokenizer_id(self) -> str:
        return self._name

    @property
    def inner(self) -> Any:
        """The tokenizer of ``transformers``."""
        return self._inner

    @property
    def vocab_size(self) -> int:
        return len(self._inner)

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The end of text and, where the vocabulary has one of the usual names, the end of a turn."""
        vocabulary = self._inner.get_vocab()
        ids = [self._inner.eos_token_id, *(vocabulary.get(name) for name in _END_OF_TURN_TOKENS)]
        return tuple(dict.fromkeys(token for token in ids if token is not None))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._inner.encode(text, add_special_tokens=False)
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        text: str = self._inner.decode(list(tokens), skip_special_tokens=True)
        return text

    def render_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self._apply(messages, generate=True)

    @cached_property
    def features(self) -> ChatFeatures:
        """Detected by rendering probes: a feature counts if its content appears and our parser recognizes it."""
        return ChatFeatures(
            tools=self._supports_tools(),
            thinking=self._supports_thinking(),
            thinking_history=self._supports_thinking_history(),
            names="probe_name" in (self._probe([{**_PROBE_MESSAGE, "name": "probe_name"}]) or ""),
            image_token=self._image_token(),
        )

    def render_chat(self, chat: Chat) -> list[int]:
        messages = [_as_text_results(message) for message in chat.messages]
        options: dict[str, Any] = {"tools": list(chat.tools)} if chat.tools else {}
        if self.features.thinking:
            options["enable_thinking"] = chat.thinking
        tokens = self._apply(messages, generate=True, **options)
        markers = tokens.count(self.features.image_token) if self.features.image_token is not None else 0
        if markers != len(chat.images):
            raise InvalidRequest(
                f"messages: the rendered text has {markers} image markers for {len(chat.images)} images; "
                "no text may contain the template's image marker",
                details={"field": "messages"},
            )
        return tokens

    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        """Render as specified. Weights are derived from renderings up to each turn, so a template whose longer
        renderings do not begin with the shorter ones is refused."""
        weights = [TurnWeight(1.0 if message["role"] == "assistant" else 0.0) for message in messages]
        return self._renderer((), control := self._control()).example(control.marked(messages), weights)

    def render_training(self, chat: Chat, weights: Sequence[TurnWeight]) -> tuple[RenderedExample, ...]:
        if chat.images:
            raise Unsupported(f"{chat.images[0].place}: an image cannot be trained on")
        control = self._control()
        messages = [control.marked(_as_text_results(message)) for message in chat.messages]
        return self._renderer(control.marked(chat.tools), control).examples(messages, weights)

    def _renderer(self, tools: Sequence[Mapping[str, Any]], control: ControlText) -> Renderer:
        options: dict[str, Any] = {"tools": list(tools)} if tools else {}
        renderer = Renderer(self._name, self._inner, partial(self._rendered, **options), control)
        if tools and not self.features.tools:
            raise Unsupported(f"tools: the chat template of {self._name} does not render them")
        return renderer

    def _control(self) -> ControlText:
        return ControlText(self._control_tokens)

    @cached_property
    def _control_tokens(self) -> frozenset[str]:
        added = [token.content for token in self._inner.added_tokens_decoder.values() if token.special]
        return frozenset([*added, *self._inner.all_special_tokens])

    def image_length(self, width: int, height: int) -> int:
        count = getattr(self._image_processor, "get_number_of_image_patches", None)
        if count is None:
            return super().image_length(width, height)
        try:
            patches = int(count(height, width, {}))
        except ValueError as error:
            raise Unsupported(f"the model {self._name} reads no image of {width} x {height}: {error}") from error
        # patches are merged in squares before the language model sees them
        return patches // int(self._image_processor.merge_size) ** 2

    @cached_property
    def _image_processor(self) -> Any:
        return None if self._load_image_processor is None else self._load_image_processor()

    def render_text(self, text: str) -> RenderedExample:
        control = self._control()
        tokens = list(self._encoded(control.marked(text), control))
        if self._inner.eos_token_id is not None:
            tokens.append(self._inner.eos_token_id)
        return RenderedExample(tuple(tokens), (0.0, *([1.0] * (len(tokens) - 1))))

    def _apply(self, messages: Sequence[Mapping[str, Any]], *, generate: bool, **options: Any) -> list[int]:
        control = self._control()
        text = self._rendered([control.marked(message) for message in messages], generate=generate, **options)
        return self._encoded(text, control)

    def _encoded(self, text: str, control: ControlText) -> list[int]:
        """The tokens of a rendered text; the special ones are those that the template has written."""
        return [
            token
            for _, piece, is_control in control.pieces(text)
            for token in (encoded_apart(piece, self.encode) if is_control else self.encode(piece))
        ]

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, generate: bool, **options: Any) -> str:
        if self._inner.chat_template is None:
            raise Unsupported(f"the tokenizer {self._name} has no chat template")
        try:
            text: str = self._inner.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=generate, **options
            )
        except Exception as error:
            raise InvalidRequest(
                f"messages: the chat template of {self._name} rejects them: {error}", details={"field": "messages"}
            ) from error
        return text

    def _probe(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        """The rendered text, encoded and decoded, or None if the template rejects the messages."""
        try:
            return self.decode(self._apply(messages, generate=True, **options))
        except (InvalidRequest, Unsupported):
            return None

    def _supports_tools(self) -> bool:
        offered = self._probe([_PROBE_MESSAGE], tools=[_PROBE_TOOL])
        if offered is None or "probe_tool" not in offered:
            return False
        calling = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
        result = {"role": "tool", "tool_call_id": "c", "name": "probe_tool", "content": "probe_result"}
        text = self._probe([_PROBE_MESSAGE, calling, result])
        if text is None or "probe_result" not in text:
            return False
        calls = parse_output(text, thinks=False, opened=False, calls=True, turn=0).tool_calls
        return [(call.name, call.arguments) for call in calls] == [("probe_tool", {"a": 1})]

    def _supports_thinking(self) -> bool:
        thinking, plain = (
            self._probe([_PROBE_MESSAGE], enable_thinking=True),
            self._probe([_PROBE_MESSAGE], enable_thinking=False),
        )
        if thinking is None or plain is None:
            return False
        return thinking.rstrip().endswith(THINK_START) or (thinking != plain and THINK_START in thinking + plain)

    def _supports_thinking_history(self) -> bool:
        """Check whether the thinking before a tool call is rendered once its result follows."""
        calling = {
            "role": "assistant",
            "content": "",
            "reasoning_content": "probe_thought",
            "tool_calls": [_PROBE_CALL],
        }
        result = {"role": "tool", "tool_call_id": "c", "name": "probe_tool", "content": "r"}
        return "probe_thought" in (self._probe([_PROBE_MESSAGE, calling, result], tools=[_PROBE_TOOL]) or "")

    def _image_token(self) -> int | None:
        vocabulary = self._inner.get_vocab()
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}
        try:
            tokens = self._apply([message], generate=True)
        except (InvalidRequest, Unsupported):
            return None
        candidates = (vocabulary.get(name) for name in _IMAGE_TOKENS)
        return next((token for token in candidates if token is not None and tokens.count(token) == 1), None)


def _as_text_results(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Convert a tool's result to text, which templates expect."""
    content = message["content"]
    if message["role"] != "tool" or isinstance(content, str):
        return message
    return {**message, "content": json.dumps(content, ensure_ascii=False)}
