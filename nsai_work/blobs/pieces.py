"""Pieces of a file: its content in parts of less than 1 MiB, each a zstd frame with a checksum."""

from collections.abc import Iterator
from typing import BinaryIO, Final

import zstandard

MAX_STORED_BYTES: Final = 1024 * 1024
"""The largest piece as it is stored."""

PIECE_BYTES: Final = MAX_STORED_BYTES - 1024
"""The content of a piece. Content that cannot be compressed grows by some bytes, for which there is room."""


class DamagedPiece(ValueError):
    """A piece is not what was stored. The text says what is wrong with it."""


def cut(file: BinaryIO) -> Iterator[bytes]:
    """Yield the content of an open file in parts for ``pack``."""
    while content := file.read(PIECE_BYTES):
        yield content


def pack(content: bytes) -> bytes:
    """Compress the content of a piece."""
    return zstandard.ZstdCompressor(write_checksum=True).compress(content)


def unpack(piece: bytes) -> bytes:
    """Return the content of a piece.

    Raises:
        DamagedPiece: it cannot be decompressed, or is larger than a piece can be.
    """
    try:
        # the size is read before memory is reserved for it; a piece is never empty
        if zstandard.frame_content_size(piece) not in range(1, PIECE_BYTES + 1):
            raise DamagedPiece("does not begin as a piece does")
        return zstandard.ZstdDecompressor().decompress(piece, read_across_frames=False, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise DamagedPiece(f"cannot be decompressed ({error})") from None
