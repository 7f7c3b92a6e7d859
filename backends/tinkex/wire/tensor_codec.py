"""Arrays in protobuf: ``Tensor`` both ways, and views of numbers in received bytes."""

import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from backends.tinkex.types.arrays import as_numpy, is_numpy
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import Piece
from backends.tinkex.wire.protobuf_read import ProtobufError, Value, as_int, as_ints, as_view, fields
from backends.tinkex.wire.protobuf_write import delimited, header, integer, memory_of, text, varint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DType(IntEnum):
    """Types of numbers on the wire."""

    UNSPECIFIED = 0
    FLOAT32 = 1
    INT64 = 2
    INT32 = 3
    BFLOAT16 = 4


_ON_WIRE: Final = {"float32": DType.FLOAT32, "int64": DType.INT64}
_TYPECODE: Final = {"float32": "f", "int64": "q", "int32": "i"}
_ITEM: Final = {DType.FLOAT32: "<f4", DType.INT64: "<i8", DType.INT32: "<i4", DType.BFLOAT16: "<u2"}
_NAMED: Final = {
    DType.FLOAT32: "float32",
    DType.BFLOAT16: "float32",
    DType.INT64: "int64",
    DType.INT32: "int64",
}


def packed(values: Any, dtype: str) -> Piece:
    """The numbers as little-endian bytes: an array's own memory where it fits, else converted once.

    Raises:
        TypeError, ValueError, OverflowError: the numbers do not fit ``dtype``.
    """
    if is_numpy(values):
        if dtype == "int32" and values.size and values.dtype.itemsize > 4 and not _fits_int32(values):
            raise OverflowError("a number is outside the range of 32 bits")
        return memory_of(as_numpy(values, dtype))
    if isinstance(values, memoryview):
        return memory_of(as_numpy(values, dtype))
    try:
        return _packer(dtype, len(values)).pack(*values)
    except struct.error as error:
        raise TypeError(f"{error} (for {dtype})") from error


@lru_cache(maxsize=1024)
def _packer(dtype: str, count: int) -> struct.Struct:
    # Twice as fast as numpy or array are on a list, and faster still where the machine's own order is the wire's.
    order = "@" if sys.byteorder == "little" else "<"
    return struct.Struct(f"{order}{count}{_TYPECODE[dtype]}")


def _fits_int32(values: "NDArray[Any]") -> bool:
    return bool(values.min() >= -(2**31) and values.max() < 2**31)


def write_tensor_entry(number: int, name: str, tensor: TensorData, pieces: list[Piece]) -> int:
    """Append the map entry ``name: tensor`` as field ``number``; returns how many bytes it takes."""
    if tensor.is_sparse:
        content = _sparse_tensor(tensor)
        piece = delimited(number, text(1, name) + delimited(2, content))
        pieces.append(piece)
        return len(piece)
    data = packed(tensor.data, tensor.dtype)
    prefix = _entry_prefix(number, name, _ON_WIRE[tensor.dtype], tensor.shape, len(data))
    pieces.append(prefix)
    pieces.append(data)
    return len(prefix) + len(data)


@lru_cache(maxsize=4096)
def _entry_prefix(number: int, name: str, dtype: DType, shape: tuple[int, ...] | None, size: int) -> bytes:
    # The numbers come last in their message, so that all before them is one piece, and the same for equal shapes.
    before = _meta(dtype, shape) + header(1, size)
    key = text(1, name)
    tensor = header(2, len(before) + size) + before
    return header(number, len(key) + len(tensor) + size) + key + tensor


def _meta(dtype: DType, shape: Sequence[int] | None) -> bytes:
    meta = integer(3, dtype)
    if shape:
        meta += delimited(4, b"".join(map(varint, shape)))
    return meta


def _sparse_tensor(tensor: TensorData) -> bytes:
    csr = (
        delimited(1, bytes(packed(tensor.data, tensor.dtype)))
        + delimited(2, bytes(packed(tensor.sparse_crow_indices, "int64")))
        + delimited(3, bytes(packed(tensor.sparse_col_indices, "int64")))
    )
    return _meta(_ON_WIRE[tensor.dtype], tensor.shape) + delimited(2, csr)


def read_tensor(message: Value, what: str) -> TensorData:
    """A ``Tensor``; its numbers are views into the message. Raises ProtobufError."""
    dtype, shape, dense, csr = 0, [], None, None
    for number, _, value in fields(as_view(message, what)):
        if number == 1:
            dense, csr = as_view(value, what), None
        elif number == 2:
            dense, csr = None, as_view(value, what)
        elif number == 3:
            dtype = as_int(value, f"{what}.dtype")
        elif number == 4:
            shape += as_ints(value, f"{what}.shape")
    kind = known_dtype(dtype, what)
    if csr is not None:
        return _read_sparse(csr, kind, shape, what)
    values = numbers(dense if dense is not None else memoryview(b""), kind, what)
    try:
        values = values.reshape(shape) if shape else values
    except ValueError as error:
        raise ProtobufError(f"{what}: {values.size} numbers have not the shape {shape}") from error
    return TensorData.trusted(values, _NAMED[kind], values.shape)


def _read_sparse(csr: memoryview, kind: DType, shape: list[int], what: str) -> TensorData:
    parts = {number: as_view(value, what) for number, _, value in fields(csr)}
    empty = memoryview(b"")
    try:
        return TensorData.model_validate(
            {
                "data": numbers(parts.get(1, empty), kind, what),
                "dtype": _NAMED[kind],
                "shape": tuple(shape),
                "sparse_crow_indices": numbers(parts.get(2, empty), DType.INT64, what),
                "sparse_col_indices": numbers(parts.get(3, empty), DType.INT64, what),
            }
        )
    except ValidationError as error:
        raise ProtobufError(f"{what}: {error.errors()[0]['msg']}") from error


def known_dtype(value: int, what: str) -> DType:
    """The type of numbers under its number on the wire. Raises ProtobufError."""
    try:
        kind = DType(value)
    except ValueError:
        kind = DType.UNSPECIFIED
    if kind is DType.UNSPECIFIED:
        raise ProtobufError(f"{what}: {value} is no known type of numbers")
    return kind


def dtype_name(kind: DType) -> str:
    """``float32`` or ``int64``: how ``TensorData`` names it."""
    return _NAMED[kind]


def item_size(kind: DType) -> int:
    """Bytes of one number on the wire."""
    return int(_ITEM[kind][-1])


def numbers(view: memoryview, kind: DType, what: str) -> "NDArray[Any]":
    """The numbers in the bytes: views, widened only where ``TensorData`` has no such type. Raises ProtobufError."""
    import numpy as np

    if len(view) % item_size(kind):
        raise ProtobufError(f"{what}: {len(view)} bytes are no whole number of {kind.name.lower()} values")
    values: NDArray[Any] = np.frombuffer(view, dtype=_ITEM[kind])
    if kind is DType.BFLOAT16:
        return (values.astype("<u4") << 16).view("<f4")
    if kind is DType.INT32:
        return values.astype("<i8")
    return values
