"""Lines of files that users give: numbered, and bounded, as a file without line ends must not fill the memory."""

from collections.abc import Iterable, Iterator
from typing import BinaryIO, Final

MAX_LINE_BYTES: Final = 16 * 1024 * 1024
"""The longest line, and the largest row."""

TOO_LONG: Final = f"is longer than {MAX_LINE_BYTES // 1024 // 1024} MiB"
"""The state of a line that is longer."""

_BLOCK_BYTES: Final = 256 * 1024


def numbered_lines(blocks: Iterable[bytes]) -> Iterator[tuple[int, bytes | None]]:
    """Yield all lines of blocks with their numbers, from 1; None for one that is too long, once that is known: the
    rest of it is read only for what follows."""
    number, size = 1, 0
    pending: list[bytes] = []
    for block in blocks:
        for place, part in enumerate(block.split(b"\n")):
            if place:
                if size <= MAX_LINE_BYTES:
                    yield number, b"".join(pending)
                number, size, pending = number + 1, 0, []
            was_short = size <= MAX_LINE_BYTES
            size += len(part)
            if size <= MAX_LINE_BYTES:
                pending.append(part)
            elif was_short:
                pending = []
                yield number, None
    if 0 < size <= MAX_LINE_BYTES:
        yield number, b"".join(pending)


def blocks_of(file: BinaryIO) -> Iterator[bytes]:
    """Yield the rest of an open file in blocks."""
    while block := file.read(_BLOCK_BYTES):
        yield block
