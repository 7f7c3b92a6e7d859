"""Server-sent events: the data of each event of a stream of bytes."""

import re
from collections.abc import AsyncIterator
from typing import Final

_WHOLE: Final = (b"{", b"[", b"<")
"""First bytes of JSON and HTML, with which no event stream begins."""
_LINE_END: Final = re.compile(rb"\r\n|\n|\r(?!\n)")


async def peeked(blocks: AsyncIterator[bytes]) -> tuple[AsyncIterator[bytes], bool]:
    """The same blocks, and whether they are JSON or HTML instead of events. Content types are often wrong."""
    head = b""
    async for block in blocks:
        head += block
        if head.strip():
            break

    async def all_blocks() -> AsyncIterator[bytes]:
        yield head
        async for block in blocks:
            yield block

    return all_blocks(), head.lstrip().startswith(_WHOLE)


async def event_data(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Yield the data of each event. Lines end with LF, CRLF or CR; a character may be split between blocks.

    A last event without an empty line after it counts too: some servers omit that line.
    """
    data: list[bytes] = []
    async for line in _lines(blocks):
        if not line:
            if data:
                yield b"\n".join(data)
            data = []
        elif line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
    if data:
        yield b"\n".join(data)


async def _lines(blocks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    rest = bytearray()
    searched = 0
    async for block in blocks:
        rest += block
        start = 0
        while (match := _LINE_END.search(rest, max(start, searched))) is not None:
            if match.end() == len(rest) and match.group() == b"\r":
                break  # the next block may begin with its LF
            yield bytes(rest[start : match.start()])
            start = match.end()
            searched = 0
        del rest[:start]
        searched = max(0, len(rest) - 1)
    if rest:
        yield bytes(rest.removesuffix(b"\r"))
