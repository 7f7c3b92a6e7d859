"""Reading protobuf by hand: fields as views into the bytes that came."""

import struct
from collections.abc import Iterator
from typing import Final

from backends.tinkex.wire.protobuf_write import BYTES, FIXED32, FIXED64, VARINT

_LONGEST_VARINT: Final = 10
_UINT64: Final = 2**64 - 1


class ProtobufError(ValueError):
    """The bytes are no such message; the text says where."""


Value = int | memoryview


def fields(message: memoryview) -> Iterator[tuple[int, int, Value]]:
    """(number, wire type, value) of each field in order. Numbers are unsigned; the rest are views.

    Raises:
        ProtobufError: the message is cut short or malformed.
    """
    at, end = 0, len(message)
    while at < end:
        key = message[at]
        at += 1
        if key >= 0x80:
            key, at = _varint(message, at - 1)
        number, wire_type = key >> 3, key & 7
        if number == 0:
            raise ProtobufError("field number 0")
        if wire_type == BYTES:
            if at < end and message[at] < 0x80:
                size = message[at]
                at += 1
            else:
                size, at = _varint(message, at)
            if size > end - at:
                raise ProtobufError(f"field {number} is cut short")
            yield number, wire_type, message[at : at + size]
            at += size
        elif wire_type == VARINT:
            value, at = _varint(message, at)
            yield number, wire_type, value
        elif wire_type in (FIXED32, FIXED64):
            size = 8 if wire_type == FIXED64 else 4
            if size > end - at:
                raise ProtobufError(f"field {number} is cut short")
            yield number, wire_type, message[at : at + size]
            at += size
        else:
            raise ProtobufError(f"field {number} has wire type {wire_type}, which is not used")


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = 0
    for step in range(_LONGEST_VARINT):
        if at + step >= len(message):
            raise ProtobufError("an integer is cut short")
        byte = message[at + step]
        value |= (byte & 0x7F) << 7 * step
        if byte < 0x80:
            return value & _UINT64, at + step + 1
    raise ProtobufError("an integer is too long")


def as_view(value: Value, what: str) -> memoryview:
    """The value of a field of bytes or a message."""
    if isinstance(value, int):
        raise ProtobufError(f"{what} is a number where bytes belong")
    return value


def as_int(value: Value, what: str) -> int:
    """The value of an integer field, with its sign."""
    if not isinstance(value, int):
        raise ProtobufError(f"{what} is not an integer")
    return value - 2**64 if value >= 2**63 else value


def as_text(value: Value, what: str) -> str:
    """The value of a field of text."""
    try:
        return bytes(as_view(value, what)).decode()
    except UnicodeDecodeError as error:
        raise ProtobufError(f"{what} is not UTF-8") from error


def as_double(value: Value, what: str) -> float:
    """The value of a double."""
    view = as_view(value, what)
    if len(view) != 8:
        raise ProtobufError(f"{what} is not a double")
    number: float = struct.unpack("<d", view)[0]
    return number


def as_ints(value: Value, what: str) -> list[int]:
    """One field of repeated integers: packed, or one of many."""
    if isinstance(value, int):
        return [as_int(value, what)]
    found, at = [], 0
    while at < len(value):
        number, at = _varint(value, at)
        found.append(as_int(number, what))
    return found


def entry(value: Value, what: str) -> tuple[str, Value | None]:
    """Key and value of one entry of a map from text."""
    key, found = "", None
    for number, _, part in fields(as_view(value, what)):
        if number == 1:
            key = as_text(part, f"{what} key")
        elif number == 2:
            found = part
    return key, found
