"""Tokenizers: text to token ids and back, and conversations to prompts and training examples.

A backend provides a ``Tokenizer`` for each model. ``ByteTokenizer`` needs no vocabulary file; the development
server, the scripted backend and the tests share it.
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
    """A training example as tokens, with a weight for each: 1.0 for tokens that the model is trained to produce."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ChatFeatures:
    """The features of a model's template beyond plain turns. ``image_token`` is the placeholder of an image."""

    tools: bool = False
    thinking: bool = False
    thinking_history: bool = False
    names: bool = False
    image_token: int | None = None


class Tokenizer(ABC):
    """The tokenizer of a model."""

    @property
    @abstractmethod
    def tokenizer_id(self) -> str:
        """The service's name for this tokenizer."""

    @property
    @abstractmethod
    def vocab_size(self) -> int:
        """The upper bound of token ids, exclusive."""

    @property
    @abstractmethod
    def stop_tokens(self) -> tuple[int, ...]:
        """The token ids that end an assistant's turn."""

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Encode plain text, without special tokens."""

    @abstractmethod
    def decode(self, tokens: Iterable[int]) -> str:
        """Decode token ids into text, without special tokens."""

    @abstractmethod
    def render_prompt(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Render a conversation (``role`` and ``content``) as a prompt for the assistant's next turn."""

    @property
    def features(self) -> ChatFeatures:
        """The features that ``render_chat`` supports; by default, plain turns only."""
        return ChatFeatures()

    def render_chat(self, chat: "Chat") -> list[int]:
        """Render a conversation with tools, calls, names and images as a prompt for the assistant's next turn.

        Raises:
            Unsupported: the conversation needs a feature that ``features`` lacks.
        """
        if chat.tools or chat.thinking or chat.images or any(len(turn) > 2 for turn in chat.messages):
            raise Unsupported(f"messages: the tokenizer {self.tokenizer_id} renders only plain turns")
        return self.render_prompt(chat.messages)

    @abstractmethod
    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        """Render a conversation for training: weight 1.0 on the assistant's turns, end of turn included."""

    @abstractmethod
    def render_text(self, text: str) -> RenderedExample:
        """Render plain text for training: weight 1.0 on every token but the first, which has no context."""


_ROLES: Final = {"system": 257, "user": 258, "assistant": 259, "tool": 260}


class ByteTokenizer(Tokenizer):
    """A tokenizer of UTF-8 bytes, the ids 0 to 255. A turn is its role's marker, the bytes, and the end marker.

    Beyond plain turns, as text in a turn:

    * tools: a first turn with role system, ``<tools>[...]</tools>`` around their JSON list;
    * a tool call: ``<tool_call>{"id": ..., "name": ..., "arguments": ...}</tool_call>``, after the text;
    * a tool's result: a turn with role tool, ``{"tool_call_id": ..., "content": ...}``;
    * an author's name: ``<name>...</name>`` before the text;
    * thinking: the turn of an assistant, also an earlier one, has it first, from ``<think>`` to ``</think>``;
    * an image: an ``IMAGE`` marker.
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
        return ChatFeatures(tools=True, thinking=True, thinking_history=True, names=True, image_token=self.IMAGE)

    def render_chat(self, chat: "Chat") -> list[int]:
        tokens: list[int] = []
        if chat.tools:
            tools = f"<tools>{_json([tool['function'] for tool in chat.tools])}</tools>"
            tokens += [_ROLES["system"], *self.encode(tools), self.END]
        for index, message in enumerate(chat.messages):
            tokens += [_marker(message, index), *self._turn(message), self.END]
        return [*tokens, _ROLES["assistant"], *self.encode("<think>" if chat.thinking else "")]

    def _turn(self, message: Mapping[str, Any]) -> list[int]:
        if "tool_call_id" in message:
            result = {"tool_call_id": message["tool_call_id"], "content": message["content"]}
            return self.encode(_named(message) + _json(result))
        content, tokens = message["content"], self.encode(_named(message))
        if "reasoning_content" in message:
            tokens += self.encode(f"<think>{message['reasoning_content']}</think>")
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            tokens += [self.IMAGE] if part["type"] == "image" else self.encode(part["text"])
        for call in message.get("tool_calls", ()):
            tokens += self.encode(f"<tool_call>{_json({'id': call['id'], **call['function']})}</tool_call>")
        return tokens

    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        tokens: list[int] = []
        weights: list[float] = []
        for index, message in enumerate(messages):
            turn = [*self.encode(message["content"]), self.END]
            tokens += [_marker(message, index), *turn]
            weights += [0.0, *([1.0 if message["role"] == "assistant" else 0.0] * len(turn))]
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
