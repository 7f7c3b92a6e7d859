"""A protobuf writer: tags, varints, and buffers that are not copied."""

import struct
from functools import lru_cache
from typing import Any, Final

from backends.tinkex.wire.body import Piece

VARINT: Final = 0
FIXED64: Final = 1
BYTES: Final = 2
FIXED32: Final = 5
_UINT64: Final = 2**64 - 1


def varint(value: int) -> bytes:
    """Encode an integer; a negative one as its 64-bit two's complement."""
    value &= _UINT64
    if value < 0x80:
        return bytes((value,))
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


@lru_cache(maxsize=1024)
def tag(number: int, wire_type: int) -> bytes:
    """Encode the tag of a field."""
    return varint(number << 3 | wire_type)


@lru_cache(maxsize=8192)
def header(number: int, size: int) -> bytes:
    """Encode the tag and length of a field of ``size`` bytes."""
    return tag(number, BYTES) + varint(size)


def delimited(number: int, content: bytes) -> bytes:
    """Encode a field of bytes, encoded text or an encoded message."""
    return header(number, len(content)) + content


def text(number: int, value: str) -> bytes:
    """Encode a string field."""
    return delimited(number, value.encode())


def integer(number: int, value: int) -> bytes:
    """Encode an integer, boolean or enum field."""
    return tag(number, VARINT) + varint(value)


def double(number: int, value: float) -> bytes:
    """Encode a double field."""
    return tag(number, FIXED64) + struct.pack("<d", value)


def memory_of(array: Any) -> Piece:
    """Return the bytes of a C-contiguous array without a copy."""
    view = memoryview(array)
    return view.cast("B") if view.nbytes else b""
