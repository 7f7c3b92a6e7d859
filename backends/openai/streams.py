"""Reading the body of an answer: JSON, or the events of a stream."""

import contextlib
import json
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

from pydantic_core import from_json

from backends.openai.chunks import ChunkConverter
from backends.openai.server_sent_events import event_data, peeked
from backends.openai.wire import malformed
from crucible.completion import Completion, Usage
from crucible.stream import StreamEvent, events_of

_DONE: Final = b"[DONE]"


async def stream_events(
    body: AsyncIterator[bytes],
    converter: ChunkConverter,
    *,
    whole: Callable[[Any], Completion],
    usage: Callable[[Any, str], tuple[Usage, float | None]],
) -> AsyncIterator[StreamEvent]:
    """Yield the events of a streamed answer. One that the server sent whole, although a stream was requested, is
    converted by ``whole`` and split. ``usage`` converts the reported usage and the text to usage and cost."""
    blocks, is_whole = await peeked(body)
    if is_whole:
        content = b"".join([block async for block in blocks])
        for event in events_of(whole(parsed(content))):
            yield event
        return
    complete = False
    async for data in event_data(blocks):
        if data.strip() == _DONE:
            complete = True
            break
        for event in converter.events(parsed(data)):
            yield event
    for event in converter.end_of_stream(complete=complete):
        yield event
    for event in converter.closing_events(*usage(converter.usage, converter.text)):
        yield event


def parsed(content: bytes) -> Any:
    try:
        return from_json(content)
    except ValueError as exc:
        if "surrogate" in str(exc):
            with contextlib.suppress(ValueError, RecursionError):
                return json.loads(content)
        text = content[:200].decode(errors="replace")
        raise malformed(f"it is not JSON ({exc}); it begins with {text!r}") from None
