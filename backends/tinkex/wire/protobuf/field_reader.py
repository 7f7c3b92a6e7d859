"""A protobuf reader: fields as views into the received bytes."""

import struct
from collections.abc import Iterator
from typing import Final

from backends.tinkex.wire.protobuf.field_writer import BYTES, FIXED32, FIXED64, VARINT

_MAX_VARINT_BYTES: Final = 10
_UINT64: Final = 2**64 - 1


class ProtobufError(ValueError):
    """Malformed protobuf. The message names the place."""


Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, int, Value]]:
    """Yield (number, wire type, value) of each field in order. Integers are unsigned; other values are views.

    Raises:
        ProtobufError: the message is truncated or malformed.
    """
    offset, end = 0, len(message)
    while offset < end:
        key = message[offset]
        offset += 1
        if key >= 0x80:
            key, offset = _varint(message, offset - 1)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ProtobufError("field number 0")
        if wire_type == BYTES:
            if offset < end and message[offset] < 0x80:
                size = message[offset]
                offset += 1
            else:
                size, offset = _varint(message, offset)
            if size > end - offset:
                raise ProtobufError(f"field {number} is truncated")
            yield number, wire_type, message[offset : offset + size]
            offset += size
        elif wire_type == VARINT:
            value, offset = _varint(message, offset)
            yield number, wire_type, value
        elif wire_type in (FIXED32, FIXED64):
            size = 8 if wire_type == FIXED64 else 4
            if size > end - offset:
                raise ProtobufError(f"field {number} is truncated")
            yield number, wire_type, message[offset : offset + size]
            offset += size
        else:
            raise ProtobufError(f"field {number} has the unused wire type {wire_type}")


def _varint(message: memoryview, offset: int) -> tuple[int, int]:
    value = 0
    for step in range(_MAX_VARINT_BYTES):
        if offset + step >= len(message):
            raise ProtobufError("an integer is truncated")
        byte = message[offset + step]
        value |= (byte & 0x7F) << 7 * step
        if byte < 0x80:
            return value & _UINT64, offset + step + 1
    raise ProtobufError("an integer is too long")


def as_view(value: Value, name: str) -> memoryview:
    """Return the value of a bytes or message field."""
    if isinstance(value, int):
        raise ProtobufError(f"{name} is a number instead of bytes")
    return value


def as_int(value: Value, name: str) -> int:
    """Return the value of an integer field, with its sign."""
    if not isinstance(value, int):
        raise ProtobufError(f"{name} is not an integer")
    return value - 2**64 if value >= 2**63 else value


def as_text(value: Value, name: str) -> str:
    """Return the value of a string field."""
    try:
        return bytes(as_view(value, name)).decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"{name} is not UTF-8") from error


def as_double(value: Value, name: str) -> float:
    """Return the value of a double field."""
    view = as_view(value, name)
    if len(view) != 8:
        raise ProtobufError(f"{name} is not a double")
    number: float = struct.unpack("<d", view)[0]
    return number


def as_ints(value: Value, name: str) -> list[int]:
    """Return the values of a repeated integer field: packed, or a single element."""
    if isinstance(value, int):
        return [as_int(value, name)]
    numbers, offset = [], 0
    while offset < len(value):
        number, offset = _varint(value, offset)
        numbers.append(as_int(number, name))
    return numbers


def entry(value: Value, name: str) -> tuple[str, Value | None]:
    """Return key and value of an entry of a map with string keys."""
    key, content = "", None
    for number, _, part in fields(as_view(value, name)):
        if number == 1:
            key = as_text(part, f"{name} key")
        elif number == 2:
            content = part
    return key, content
