"""Text to token ids and back, and conversations to training examples.

``Tokenizer`` is what a backend hands out for a model. ``ByteTokenizer`` is complete in itself: it needs no
vocabulary file, so the development server, the scripted backend and the tests share it.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from crucible.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One conversation as tokens, with a weight for each: 1.0 where the model learns to produce the token."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


class Tokenizer(ABC):
    """A model's own way from text to token ids."""

    @property
    @abstractmethod
    def tokenizer_id(self) -> str:
        """The name under which a service refers to this tokenizer."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """Token ids are below this number."""

    @property
    @abstractmethod
    def stop_tokens(self) -> tuple[int, ...]:
        """The ids that end an assistant's turn."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """The ids of plain text, without special tokens."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """The text of ids; special tokens are left out."""

    @abstractmethod
    def render_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """A conversation (``role`` and ``content``) up to where the assistant is to speak."""

    @abstractmethod
    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        """A whole conversation for training: weight 1.0 on what the assistant says and on its end of turn."""

    @abstractmethod
    def render_text(self, text: str) -> RenderedExample:
        """Plain text for training: weight 1.0 on every token but the first, which nothing predicts."""


_ROLES: Final = {"system": 257, "user": 258, "assistant": 259, "tool": 260}


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes are the ids 0 to 255; a turn is its role's marker, the bytes, and the end marker."""

    END: Final = 256
    IMAGE: Final = 261
    PAD: Final = 262

    @property
    def tokenizer_id(self) -> str:
        return "nsai/byte-320"

    @property
    def vocab_size(self) -> int:
        return 320

    @property
    def stop_tokens(self) -> tuple[int, ...]:
        return (self.END,)

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def decode(self, tokens: Iterable[int]) -> str:
        return bytes(token for token in tokens if 0 <= token < 256).decode(errors="replace")

    def render_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        tokens: list[int] = []
        for index, message in enumerate(messages):
            tokens += [_marker(message, index), *self.encode(message["content"]), self.END]
        return [*tokens, _ROLES["assistant"]]

    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        tokens: list[int] = []
        weights: list[float] = []
        for index, message in enumerate(messages):
            spoken = [*self.encode(message["content"]), self.END]
            tokens += [_marker(message, index), *spoken]
            weights += [0.0, *([1.0 if message["role"] == "assistant" else 0.0] * len(spoken))]
        return RenderedExample(tuple(tokens), tuple(weights))

    def render_text(self, text: str) -> RenderedExample:
        tokens = [*self.encode(text), self.END]
        return RenderedExample(tuple(tokens), (0.0, *([1.0] * (len(tokens) - 1))))


def _marker(message: Mapping[str, str], index: int) -> int:
    try:
        return _ROLES[message["role"]]
    except KeyError:
        raise InvalidRequest.of(
            f"messages[{index}].role", message.get("role"), f"allowed are {', '.join(_ROLES)}"
        ) from None
