"""Encoded HTTP bodies: sequences of buffers that are streamed to the socket without being joined."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic_core import to_json

Piece = bytes | memoryview
JSON: Final = "application/json"
PROTOBUF: Final = "application/x-protobuf"
_BLOCK_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class EncodedBody:
    """An encoded HTTP body in buffers, with its media type. It can be sent any number of times."""

    pieces: Sequence[Piece]
    media_type: str = JSON
    encoding: str | None = None

    @property
    def size(self) -> int:
        """The total number of bytes."""
        return sum(len(piece) for piece in self.pieces)

    def blocks(self) -> Iterator[bytes]:
        """Yield the bytes in blocks of socket size, copying one block at a time."""
        return _blocks(self.pieces)

    def joined(self) -> bytes:
        """Return all bytes, copied into one object."""
        return b"".join(self.pieces)


def json_body(value: Any) -> EncodedBody:
    """Encode a value as JSON. NaN and infinities are written as constants; request checks exclude them before."""
    return EncodedBody((to_json(value, inf_nan_mode="constants"),))


def _blocks(pieces: Iterable[Piece]) -> Iterator[bytes]:
    pending: list[Piece] = []
    size = 0
    for whole in pieces:
        for piece in _parts(whole):
            pending.append(piece)
            size += len(piece)
            if size >= _BLOCK_BYTES:
                yield b"".join(pending)
                pending, size = [], 0
    if pending:
        yield b"".join(pending)


def _parts(piece: Piece) -> Iterator[Piece]:
    if len(piece) <= _BLOCK_BYTES:
        yield piece
        return
    view = memoryview(piece)
    for begin in range(0, len(view), _BLOCK_BYTES):
        yield view[begin : begin + _BLOCK_BYTES]
