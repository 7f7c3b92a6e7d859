"""The forms of scripted answers and of what must come of them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from crucible import (
    CrucibleError,
)
from tests.contract.answer_server import Answer

Json = dict[str, Any]
HEAD = {"id": "chatcmpl-1", "created": 0, "model": "m"}
USAGE = {"prompt_tokens": 10, "completion_tokens": 4, "total_tokens": 14}
DONE = b"data: [DONE]\n\n"
UNSET: Any = object()


@dataclass(frozen=True)
class Scenario:
    """An answer and what must come of it. ``streamed`` None: there is no such stream."""

    name: str
    whole: Answer | None
    streamed: Answer | None
    choices: Sequence[Json] | None = None
    usage: Json | None = None
    error: type[CrucibleError] | None = None
    says: str = ""
    received: str | None = None

    def with_received(self, received: str | None) -> "Scenario":
        """The scenario with another text that had arrived before the error."""
        return replace(self, received=received)


def whole(message: Json | None = None, **choice: Any) -> Answer:
    """A whole answer with one choice."""
    first = {"index": 0, "message": {"role": "assistant", **(message or {})}, "finish_reason": "stop", **choice}
    return body({**HEAD, "object": "chat.completion", "choices": [first], "usage": USAGE})


def body(value: Any, **fields: Any) -> Answer:
    """A whole answer with this JSON."""
    return Answer((json.dumps(value).encode(),), **fields)


def chunk(delta: Any = None, **choice: Any) -> Json:
    """A chunk with one choice."""
    first = {"index": 0, "delta": {} if delta is None else delta, "finish_reason": None, **choice}
    return {**HEAD, "object": "chat.completion.chunk", "choices": [first]}


USAGE_CHUNK: Json = {**HEAD, "object": "chat.completion.chunk", "choices": [], "usage": USAGE}


def stream(*chunks: Any, done: bool = True, **fields: Any) -> Answer:
    """A stream of chunks."""
    events = [b"data: " + json.dumps(item).encode() + b"\n\n" for item in chunks]
    return Answer((*events, *([DONE] if done else [])), **{"content_type": "text/event-stream", **fields})


def said(*deltas: Any, finish: str | None = "stop", **fields: Any) -> Answer:
    """A stream of these deltas, an end, and the usage."""
    return stream(*(chunk(delta) for delta in deltas), chunk(finish_reason=finish), USAGE_CHUNK, **fields)


def call(name: str | None = "weather", arguments: Any = '{"town": "Ulm"}', **fields: Any) -> Json:
    """A tool call of the protocol."""
    function = {key: value for key, value in (("name", name), ("arguments", arguments)) if value is not UNSET}
    return {"type": "function", "function": function, **fields}


def calls(*found: tuple[str, str, str]) -> Json:
    """The expected message of an answer with these calls: id, name, arguments."""
    return {
        "message": {
            "content": None,
            "tool_calls": [{"id": i, "name": n, "arguments": a} for i, n, a in found],
        }
    }


def text(content: str, **fields: Any) -> Json:
    """An expected choice."""
    return {"message": {"content": content}, **fields}
