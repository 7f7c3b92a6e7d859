"""A tokenizer with a chat template, as ``transformers`` loads it, as our ``Tokenizer``. Imports nothing of it."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Final

from crucible.chat import Chat
from crucible.errors import InvalidRequest, Unsupported
from crucible.output_parser import THINK_START, parse_output
from crucible.tokenizer import ChatFeatures, RenderedExample, Tokenizer

_IMAGES: Final = ("<|image_pad|>", "<|image|>", "<image>", "<image_soft_token>")
_ASKED: Final = {"role": "user", "content": "q"}
_PROBE_TOOL: Final = {
    "type": "function",
    "function": {"name": "probe_tool", "description": "d", "parameters": {"type": "object", "properties": {}}},
}
_PROBE_CALL: Final = {"id": "c", "type": "function", "function": {"name": "probe_tool", "arguments": {"a": 1}}}
_TURN_ENDS: Final = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>")


class TemplateTokenizer(Tokenizer):
    """The model's own template renders conversations. ``inner`` is a ``transformers`` tokenizer."""

    def __init__(self, name: str, inner: Any) -> None:
        self._name = name
        self._inner = inner

    @property
    def tokenizer_id(self) -> str:
        return self._name

    @property
    def vocab_size(self) -> int:
        return len(self._inner)

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        """The end of text, and the end of a turn where the vocabulary has one of the usual names."""
        vocabulary = self._inner.get_vocab()
        found = [self._inner.eos_token_id, *(vocabulary.get(name) for name in _TURN_ENDS)]
        return tuple(dict.fromkeys(token for token in found if token is not None))

    def encode(self, text: str) -> list[int]:
        ids: list[int] = self._inner.encode(text, add_special_tokens=False)
        return ids

    def decode(self, tokens: Iterable[int]) -> str:
        text: str = self._inner.decode(list(tokens), skip_special_tokens=True)
        return text

    def render_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        return self._apply(messages, speak=True)

    @cached_property
    def features(self) -> ChatFeatures:
        """Found out by rendering: the template knows what it writes, and what our parser finds again in it."""
        return ChatFeatures(
            tools=self._knows_tools(),
            thinking=self._knows_thinking(),
            names="probe_name" in (self._probe([{**_ASKED, "name": "probe_name"}]) or ""),
            image_token=self._image_token(),
        )

    def render_chat(self, chat: Chat) -> list[int]:
        messages = [_as_text_results(message) for message in chat.messages]
        options: dict[str, Any] = {"tools": list(chat.tools)} if chat.tools else {}
        if self.features.thinking:
            options["enable_thinking"] = chat.thinking
        tokens = self._apply(messages, speak=True, **options)
        found = tokens.count(self.features.image_token) if self.features.image_token is not None else 0
        if found != len(chat.images):
            raise InvalidRequest(
                f"messages: rendered, they hold {found} places for {len(chat.images)} images; "
                "a text must not hold the template's own marker of an image",
                details={"field": "messages"},
            )
        return tokens

    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        """Weights are found by rendering the conversation up to each turn; a template whose longer renderings do
        not begin with the shorter ones cannot be trained on this way, and is refused."""
        whole = self._apply(messages, speak=False)
        weights = [0.0] * len(whole)
        for index, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._apply(messages[:index], speak=True)
            after = self._apply(messages[: index + 1], speak=False)
            if whole[: len(before)] != before or whole[: len(after)] != after:
                raise Unsupported(
                    f"the chat template of {self._name} renders turn {index} differently as the talk goes on; "
                    "train with one assistant turn for each conversation"
                )
            weights[len(before) : len(after)] = [1.0] * (len(after) - len(before))
        return RenderedExample(tuple(whole), tuple(weights))

    def render_text(self, text: str) -> RenderedExample:
        tokens = self.encode(text)
        if self._inner.eos_token_id is not None:
            tokens.append(self._inner.eos_token_id)
        return RenderedExample(tuple(tokens), (0.0, *([1.0] * (len(tokens) - 1))))

    def _apply(self, messages: Sequence[Mapping[str, Any]], *, speak: bool, **options: Any) -> list[int]:
        # The template wrote the special tokens already.
        return self.encode(self._rendered(messages, speak=speak, **options))

    def _rendered(self, messages: Sequence[Mapping[str, Any]], *, speak: bool, **options: Any) -> str:
        if self._inner.chat_template is None:
            raise Unsupported(f"the tokenizer {self._name} has no chat template")
        try:
            text: str = self._inner.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=speak, **options
            )
        except Exception as error:
            raise InvalidRequest(
                f"messages: the chat template of {self._name} refuses them: {error}", details={"field": "messages"}
            ) from error
        return text

    def _probe(self, messages: Sequence[Mapping[str, Any]], **options: Any) -> str | None:
        """The rendered text as it comes back from its tokens, or None where the template refuses."""
        try:
            return self.decode(self._apply(messages, speak=True, **options))
        except (InvalidRequest, Unsupported):
            return None

    def _knows_tools(self) -> bool:
        offered = self._probe([_ASKED], tools=[_PROBE_TOOL])
        if offered is None or "probe_tool" not in offered:
            return False
        calling = {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}
        told = {"role": "tool", "tool_call_id": "c", "name": "probe_tool", "content": "probe_result"}
        text = self._probe([_ASKED, calling, told])
        if text is None or "probe_result" not in text:
            return False
        calls = parse_output(text, thinks=False, opened=False, calls=True, turn=0).tool_calls
        return [(call.name, call.arguments) for call in calls] == [("probe_tool", {"a": 1})]

    def _knows_thinking(self) -> bool:
        thinking, plain = self._probe([_ASKED], enable_thinking=True), self._probe([_ASKED], enable_thinking=False)
        if thinking is None or plain is None:
            return False
        return thinking.rstrip().endswith(THINK_START) or (thinking != plain and THINK_START in thinking + plain)

    def _image_token(self) -> int | None:
        vocabulary = self._inner.get_vocab()
        message = {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "q"}]}
        try:
            tokens = self._apply([message], speak=True)
        except (InvalidRequest, Unsupported):
            return None
        found = (vocabulary.get(name) for name in _IMAGES)
        return next((token for token in found if token is not None and tokens.count(token) == 1), None)


def _as_text_results(message: Mapping[str, Any]) -> Mapping[str, Any]:
    """Templates write a tool's result as text."""
    content = message["content"]
    if message["role"] != "tool" or isinstance(content, str):
        return message
    return {**message, "content": json.dumps(content, ensure_ascii=False)}
