"""Completions in the form of OpenAI's API, whole or as the chunks of a stream."""

import json
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from crucible.completion import Choice, Completion, FinishReason, TokenLogprob, ToolCall, TopLogprob, Usage
from crucible.errors import BackendError, error_from
from crucible.prompt import ImagePart, Message
from crucible.stream import DeltaEvent, EndEvent, ErrorEvent, StreamEvent, ToolCallDelta, UsageEvent

_FINISH: Final[dict[FinishReason | None, str | None]] = {
    FinishReason.STOP: "stop",
    FinishReason.LENGTH: "length",
    FinishReason.TOOL_CALLS: "tool_calls",
    FinishReason.CONTENT_FILTER: "content_filter",
    # a refusal is a field of its message
    FinishReason.REFUSAL: "stop",
}
"""Other reasons are not known to be a complete answer; they become null."""
_LEAST_LOGPROB: Final = -9999.0
"""OpenAI's value for a token whose log probability cannot be represented."""
_CUT_CHARACTER: Final = "\N{REPLACEMENT CHARACTER}"


@dataclass(frozen=True, slots=True)
class AnswerFields:
    """The fields that all parts of an answer share. ``created`` is in seconds since 1970-01-01 UTC."""

    model: str
    created: int
    id: str = field(default_factory=lambda: f"chatcmpl-{secrets.token_hex(12)}")

    def fields(self, kind: str) -> dict[str, JsonValue]:
        """The fields of an object of this kind."""
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def completion_json(head: AnswerFields, completion: Completion) -> dict[str, JsonValue]:
    """Convert a completion. Raises BackendError for an answer that ended with an error of the service."""
    return {
        **head.fields("chat.completion"),
        "choices": [_choice(choice) for choice in completion.choices],
        "usage": None if completion.usage is None else usage_json(completion.usage),
    }


def _choice(choice: Choice) -> dict[str, JsonValue]:
    message: dict[str, JsonValue] = {
        "role": "assistant",
        "content": _content(choice.message),
        "refusal": choice.message.refusal,
    }
    if choice.message.tool_calls:
        message["tool_calls"] = [_call(call) for call in choice.message.tool_calls]
    if choice.thinking is not None:
        message["reasoning_content"] = choice.thinking.content
    return {
        "index": choice.index,
        "message": message,
        "logprobs": None if choice.logprobs is None else _logprobs(choice.logprobs),
        "finish_reason": _finish_reason(choice.finish_reason),
    }


def _content(message: Message) -> str | None:
    if any(isinstance(part, ImagePart) for part in message.parts()):
        raise BackendError("the answer has an image, which this API cannot represent")
    return None if message.content is None else "".join(getattr(part, "text", "") for part in message.parts())


def _finish_reason(reason: FinishReason | None) -> str | None:
    if reason is FinishReason.ERROR:
        raise BackendError("the service failed while it answered, so the answer is incomplete")
    return _FINISH.get(reason)


def _call(call: ToolCall) -> dict[str, JsonValue]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": _arguments_text(call.arguments)},
    }


def _arguments_text(arguments: str | dict[str, JsonValue]) -> str:
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, JsonValue]:
    content: list[JsonValue] = [
        {**_token(token), "top_logprobs": [_token(other) for other in token.top]} for token in tokens
    ]
    return {"content": content, "refusal": None}


def _token(token: TokenLogprob | TopLogprob) -> dict[str, JsonValue]:
    # a part of a character has no text, and its bytes are not known here
    data: list[JsonValue] | None = None if _CUT_CHARACTER in token.token else [*token.token.encode()]
    logprob = _LEAST_LOGPROB if token.logprob is None else token.logprob
    return {"token": token.token, "logprob": logprob, "bytes": data}


def usage_json(usage: Usage) -> dict[str, JsonValue]:
    """Convert token counts. Counts that are not known are left out."""
    found: dict[str, JsonValue] = {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.total_tokens,
    }
    if usage.cached_tokens is not None:
        found["prompt_tokens_details"] = {"cached_tokens": usage.cached_tokens}
    if usage.thinking_tokens is not None:
        found["completion_tokens_details"] = {"reasoning_tokens": usage.thinking_tokens}
    return found


class ChunkSequence:
    """The chunks of a stream, made of its events one by one. The first of each answer has its role."""

    def __init__(self, head: AnswerFields, *, include_usage: bool) -> None:
        self._head = head
        self._include_usage = include_usage
        self._begun: set[int] = set()

    def add(self, event: StreamEvent) -> Iterator[dict[str, JsonValue]]:
        """Yield the chunks of the next event.

        Raises:
            CrucibleError: the event is the error that ends the stream, or an answer ended with one.
        """
        match event:
            case DeltaEvent():
                if delta := _delta(event):
                    yield self._chunk(event.index, delta, logprobs=event.logprobs)
                elif event.logprobs is not None:
                    yield self._chunk(event.index, {}, logprobs=event.logprobs)
            case EndEvent():
                yield self._chunk(event.index, {}, finish_reason=_finish_reason(event.finish_reason))
            case UsageEvent() if self._include_usage:
                yield {
                    **self._head.fields("chat.completion.chunk"),
                    "choices": [],
                    "usage": usage_json(event.usage),
                }
            case ErrorEvent():
                raise error_from(event.failure)

    def _chunk(
        self,
        index: int,
        delta: dict[str, JsonValue],
        *,
        logprobs: Sequence[TokenLogprob] | None = None,
        finish_reason: str | None = None,
    ) -> dict[str, JsonValue]:
        if index not in self._begun:
            self._begun.add(index)
            delta = {"role": "assistant", **delta}
        choice: dict[str, JsonValue] = {
            "index": index,
            "delta": delta,
            "logprobs": None if logprobs is None else _logprobs(logprobs),
            "finish_reason": finish_reason,
        }
        return {**self._head.fields("chat.completion.chunk"), "choices": [choice]}


def _delta(event: DeltaEvent) -> dict[str, JsonValue]:
    found: dict[str, JsonValue] = {}
    if event.part is not None:
        if isinstance(event.part, ImagePart):
            raise BackendError("the answer has an image, which this API cannot represent")
        found["content"] = getattr(event.part, "text", "")
    if event.text is not None:
        found["content"] = event.text
    if event.thinking is not None:
        found["reasoning_content"] = event.thinking
    if event.refusal is not None:
        found["refusal"] = event.refusal
    if event.tool_call is not None:
        found["tool_calls"] = [_call_delta(event.tool_call)]
    return found


def _call_delta(call: ToolCallDelta) -> dict[str, JsonValue]:
    function: dict[str, JsonValue] = {}
    if call.name is not None:
        function["name"] = call.name
    if call.arguments is not None:
        function["arguments"] = _arguments_text(call.arguments)
    head: dict[str, JsonValue] = {"index": call.position}
    return {**head, **({} if call.id is None else {"id": call.id, "type": "function"}), "function": function}
