"""A tokenizer with a chat template, as ``transformers`` loads it, as our ``Tokenizer``. Imports nothing of it."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from crucible.errors import InvalidRequest, Unsupported
from crucible.tokenizer import RenderedExample, Tokenizer

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

    def _apply(self, messages: Sequence[Mapping[str, str]], *, speak: bool) -> list[int]:
        if self._inner.chat_template is None:
            raise Unsupported(f"the tokenizer {self._name} has no chat template")
        try:
            text = self._inner.apply_chat_template(
                [dict(message) for message in messages], tokenize=False, add_generation_prompt=speak
            )
        except Exception as error:
            raise InvalidRequest(
                f"messages: the chat template of {self._name} refuses them: {error}", details={"field": "messages"}
            ) from error
        # The template wrote the special tokens already.
        return self.encode(text)
