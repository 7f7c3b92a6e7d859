"""Request bodies: pieces of memory that are streamed to the socket, not joined."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

Piece = bytes | memoryview
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
_BLOCK: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Body:
    """Bytes in pieces, with their media type. It can be sent any number of times."""

    pieces: Sequence[Piece]
    media_type: str = JSON
    encoding: str | None = None

    @property
    def size(self) -> int:
        """How many bytes go out."""
        return sum(len(piece) for piece in self.pieces)

    def blocks(self) -> Iterator[bytes]:
        """The same bytes, in blocks fit for a socket; one block at a time is copied."""
        return _blocks(self.pieces)

    def joined(self) -> bytes:
        """All of it, copied into one."""
        return b"".join(self.pieces)


def json_body(value: Any) -> Body:
    """JSON, with NaN and infinities written as such (requests are checked before, so none is expected)."""
    return Body((to_json(value, inf_nan_mode="constants"),))


def _blocks(pieces: Iterable[Piece]) -> Iterator[bytes]:
    waiting: list[Piece] = []
    size = 0
    for piece in pieces:
        waiting.append(piece)
        size += len(piece)
        if size >= _BLOCK:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)
