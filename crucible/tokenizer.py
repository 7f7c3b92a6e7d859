"""Text to token ids and back, and conversations to training examples.

``Tokenizer`` is what a backend hands out for a model. ``ByteTokenizer`` is complete in itself: it needs no
vocabulary file, so the development server, the scripted backend and the tests share it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from crucible.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from crucible.chat import Chat


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """One conversation as tokens, with a weight for each: 1.0 where the model learns to produce the token."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChatFeatures:
    """What a model's template can say beyond plain turns. ``image_token`` stands where an image is to go."""

    tools: bool = False
    thinking: bool = False
    names: bool = False
    image_token: int | None = None


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

    @property
    def features(self) -> ChatFeatures:
        """What ``render_chat`` takes; without more, plain turns only."""
        return ChatFeatures()

    def render_chat(self, chat: "Chat") -> list[int]:
        """A conversation with its tools, calls, names and images up to where the assistant is to speak.

        Raises:
            Unsupported: the template lacks something that ``features`` does not claim.
        """
        if chat.tools or chat.thinking or chat.images or any(len(turn) > 2 for turn in chat.messages):
            raise Unsupported(f"messages: the tokenizer {self.tokenizer_id} renders plain turns only")
        return self.render_prompt(chat.messages)

    @abstractmethod
    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        """A whole conversation for training: weight 1.0 on what the assistant says and on its end of turn."""

    @abstractmethod
    def render_text(self, text: str) -> RenderedExample:
        """Plain text for training: weight 1.0 on every token but the first, which nothing predicts."""


_ROLES: Final = {"system": 257, "user": 258, "assistant": 259, "tool": 260}


class ByteTokenizer(Tokenizer):
    """UTF-8 bytes are the ids 0 to 255; a turn is its role's marker, the bytes, and the end marker.

    Beyond plain turns, all of it text in a turn:

    * tools: a first turn of the system, ``<tools>[...]</tools>`` around the JSON list of them;
    * a tool call: ``<tool_call>{"id": ..., "name": ..., "arguments": ...}</tool_call>``, after what is said;
    * a tool's result: a turn of the tool, ``{"tool_call_id": ..., "content": ...}``;
    * a speaker's name: ``<name>...</name>`` before what is said;
    * thinking: the assistant's turn begins with ``<think>``, and ``</think>`` ends the thinking;
    * an image: one ``IMAGE`` marker in its place.
    """

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

    @property
    def features(self) -> ChatFeatures:
        return ChatFeatures(tools=True, thinking=True, names=True, image_token=self.IMAGE)

    def render_chat(self, chat: "Chat") -> list[int]:
        tokens: list[int] = []
        if chat.tools:
            offered = f"<tools>{_json([tool['function'] for tool in chat.tools])}</tools>"
            tokens += [_ROLES["system"], *self.encode(offered), self.END]
        for index, message in enumerate(chat.messages):
            tokens += [_marker(message, index), *self._turn(message), self.END]
        return [*tokens, _ROLES["assistant"], *self.encode("<think>" if chat.thinking else "")]

    def _turn(self, message: Mapping[str, Any]) -> list[int]:
        if "tool_call_id" in message:
            told = {"tool_call_id": message["tool_call_id"], "content": message["content"]}
            return self.encode(_named(message) + _json(told))
        said, tokens = message["content"], self.encode(_named(message))
        for part in [{"type": "text", "text": said}] if isinstance(said, str) else said:
            tokens += [self.IMAGE] if part["type"] == "image" else self.encode(part["text"])
        for call in message.get("tool_calls", ()):
            tokens += self.encode(f"<tool_call>{_json({'id': call['id'], **call['function']})}</tool_call>")
        return tokens

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


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _named(message: Mapping[str, Any]) -> str:
    return f"<name>{message['name']}</name>" if "name" in message else ""


def _marker(message: Mapping[str, Any], index: int) -> int:
    try:
        return _ROLES[message["role"]]
    except KeyError:
        raise InvalidRequest.of(
            f"messages[{index}].role", message.get("role"), f"allowed are {', '.join(_ROLES)}"
        ) from None
