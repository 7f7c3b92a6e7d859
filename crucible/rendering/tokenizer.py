"""Tokenizers: text to token ids and back, and conversations to prompts and training examples.

A backend provides a ``Tokenizer`` for each model. ``ByteTokenizer`` needs no vocabulary file; the development
server, the scripted backend and the tests share it.
"""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import ceil
from typing import TYPE_CHECKING, Any, Final

from crucible.errors import InvalidRequest, Unsupported

if TYPE_CHECKING:
    from crucible.rendering.chat import Chat


@dataclass(frozen=True, slots=True)
class RenderedExample:
    """A training example as tokens, with a weight for each: 1.0 for tokens that the model is trained to produce."""

    tokens: tuple[int, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class TurnWeight:
    """The loss weights of a turn: of its ``output``, from its content to the end of the turn; of its ``header``;
    and of ``spans`` of its content that differ from the output, as (begin, end, weight) in characters."""

    output: float = 0.0
    header: float = 0.0
    spans: tuple[tuple[int, int, float], ...] = ()


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

    def render_training(self, chat: "Chat", weights: Sequence[TurnWeight]) -> tuple[RenderedExample, ...]:
        """Render a conversation for training, with weights for each of its turns. Several examples, if the model's
        template renders earlier turns differently as the conversation goes on: one for each trained turn of the
        assistant, with what came before it.

        Raises:
            Unsupported: the tokenizer does not render something of the conversation, or cannot apply the weights.
        """
        usual = [TurnWeight(1.0 if message["role"] == "assistant" else 0.0) for message in chat.messages]
        if chat.tools or chat.images or list(weights) != usual or any(len(turn) > 2 for turn in chat.messages):
            raise Unsupported(
                f"messages: the tokenizer {self.tokenizer_id} renders plain turns only, trained on the assistant's"
            )
        return (self.render_example(chat.messages),)

    def image_length(self, width: int, height: int) -> int:
        """Return how many tokens of the model's input an image of this size takes.

        Raises:
            Unsupported: the model reads no images, or nothing here knows how.
        """
        raise Unsupported(f"nothing says how many tokens an image takes for the tokenizer {self.tokenizer_id}")

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
    * an image: an ``IMAGE`` marker, and in the model's input a token more for each patch of 28 by 28 pixels.
    """

    END: Final = 256
    IMAGE: Final = 261
    PAD: Final = 262
    PATCH: Final = 28

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
            tokens += self._offered(chat.tools)
        for index, message in enumerate(chat.messages):
            tokens += [_marker(message, index), *chain(*self._turn(message)), self.END]
        return [*tokens, _ROLES["assistant"], *self.encode("<think>" if chat.thinking else "")]

    def _offered(self, tools: Sequence[Mapping[str, Any]]) -> list[int]:
        listed = f"<tools>{_json([tool['function'] for tool in tools])}</tools>"
        return [_ROLES["system"], *self.encode(listed), self.END]

    def _turn(self, message: Mapping[str, Any]) -> tuple[list[int], list[int], list[int]]:
        """The header before the content, the content, and the tokens after it."""
        if "tool_call_id" in message:
            result = {"tool_call_id": message["tool_call_id"], "content": message["content"]}
            return self.encode(_named(message)), self.encode(_json(result)), []
        content, before, after = message["content"], self.encode(_named(message)), []
        if "reasoning_content" in message:
            before += self.encode(f"<think>{message['reasoning_content']}</think>")
        tokens: list[int] = []
        for part in [{"type": "text", "text": content}] if isinstance(content, str) else content:
            tokens += [self.IMAGE] if part["type"] == "image" else self.encode(part["text"])
        for call in message.get("tool_calls", ()):
            after += self.encode(f"<tool_call>{_json({'id': call['id'], **call['function']})}</tool_call>")
        return before, tokens, after

    def render_example(self, messages: Sequence[Mapping[str, str]]) -> RenderedExample:
        weights = [TurnWeight(1.0 if message["role"] == "assistant" else 0.0) for message in messages]
        return self._rendered(messages, (), weights)

    def render_training(self, chat: "Chat", weights: Sequence[TurnWeight]) -> tuple[RenderedExample, ...]:
        return (self._rendered(chat.messages, chat.tools, weights),)

    def _rendered(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]],
        turn_weights: Sequence[TurnWeight],
    ) -> RenderedExample:
        tokens: list[int] = []
        weights: list[float] = []
        if tools:
            tokens += self._offered(tools)
            weights += [turn_weights[0].header] * len(tokens)
        for index, (message, weight) in enumerate(zip(messages, turn_weights, strict=True)):
            if len(message) == 2 and isinstance(message["content"], str) and not weight.spans:
                turn = list(message["content"].encode())
                turn_output = [weight.output] * (len(turn) + 1)
            else:
                before, content, after = self._turn(message)
                turn = [*before, *content, *after]
                turn_output = [weight.output] * (len(turn) + 1)
                for first, last, of_span in weight.spans:
                    # spans count characters, tokens are bytes
                    begin, end = (len(before) + len(message["content"][:place].encode()) for place in (first, last))
                    turn_output[begin:end] = [of_span] * (end - begin)
            tokens.append(_marker(message, index))
            tokens += turn
            tokens.append(self.END)
            weights.append(weight.header)
            weights += turn_output
        return RenderedExample(tuple(tokens), tuple(weights))

    def image_length(self, width: int, height: int) -> int:
        return 1 + ceil(width / self.PATCH) * ceil(height / self.PATCH)

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
