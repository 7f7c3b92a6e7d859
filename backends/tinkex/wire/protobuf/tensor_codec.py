"""Protobuf codec of ``Tensor``, and views of the numbers in received bytes."""

import struct
import sys
from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from backends.tinkex.types.arrays import as_numpy, is_numpy
from backends.tinkex.types.tensor_data import TensorData, TensorDtype
from backends.tinkex.wire.body import Piece
from backends.tinkex.wire.protobuf.field_reader import ProtobufError, Value, as_int, as_ints, as_view, fields
from backends.tinkex.wire.protobuf.field_writer import delimited, header, integer, memory_of, text, varint

if TYPE_CHECKING:
    from numpy.typing import NDArray


class DType(IntEnum):
    """The number types of the wire format."""

    UNSPECIFIED = 0
    FLOAT32 = 1
    INT64 = 2
    INT32 = 3
    BFLOAT16 = 4


_WIRE_DTYPE: Final[dict[TensorDtype, DType]] = {"float32": DType.FLOAT32, "int64": DType.INT64}
_TYPECODE: Final = {"float32": "f", "int64": "q", "int32": "i"}
_ITEM: Final = {DType.FLOAT32: "<f4", DType.INT64: "<i8", DType.INT32: "<i4", DType.BFLOAT16: "<u2"}
_DTYPE_NAME: Final = {
    DType.FLOAT32: "float32",
    DType.BFLOAT16: "float32",
    DType.INT64: "int64",
    DType.INT32: "int64",
}


def packed(values: Any, dtype: str) -> Piece:
    """Return the numbers as little-endian bytes: an array's own memory if it fits, else a converted copy.

    Raises:
        TypeError, ValueError, OverflowError: a number does not fit ``dtype``.
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
    # Twice as fast on a list as numpy or array, and faster still in native byte order.
    order = "@" if sys.byteorder == "little" else "<"
    return struct.Struct(f"{order}{count}{_TYPECODE[dtype]}")


def _fits_int32(values: "NDArray[Any]") -> bool:
    return bool(values.min() >= -(2**31) and values.max() < 2**31)


def write_tensor_entry(number: int, name: str, tensor: TensorData, pieces: list[Piece]) -> int:
    """Append the map entry ``name: tensor`` as field ``number``; return its size in bytes."""
    if tensor.sparse_crow_indices is not None:
        content = _sparse_tensor(tensor)
        piece = delimited(number, text(1, name) + delimited(2, content))
        pieces.append(piece)
        return len(piece)
    data = packed(tensor.data, tensor.dtype)
    prefix = _entry_prefix(number, name, tensor.dtype, tensor.shape, len(data))
    pieces.append(prefix)
    pieces.append(data)
    return len(prefix) + len(data)


@lru_cache(maxsize=4096)
def _entry_prefix(number: int, name: str, dtype: TensorDtype, shape: tuple[int, ...] | None, size: int) -> bytes:
    # The numbers come last in their message, so that everything before them is one cacheable piece per shape.
    before = _meta(_WIRE_DTYPE[dtype], shape) + header(1, size)
    key = text(1, name)
    tensor = header(2, len(before) + size) + before
    return header(number, len(key) + len(tensor) + size) + key + tensor


def write_tensor(number: int, tensor: TensorData) -> bytes:
    """Encode a tensor as the field ``number``, copied."""
    if tensor.is_sparse:
        return delimited(number, _sparse_tensor(tensor))
    data = delimited(1, bytes(packed(tensor.data, tensor.dtype)))
    return delimited(number, _meta(_WIRE_DTYPE[tensor.dtype], tensor.shape) + data)


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
    return _meta(_WIRE_DTYPE[tensor.dtype], tensor.shape) + delimited(2, csr)


def read_tensor(message: Value, field: str) -> TensorData:
    """Decode a ``Tensor``, with its numbers as views into the message. Raises ProtobufError."""
    dtype, shape, dense, csr = 0, [], None, None
    for number, _, value in fields(as_view(message, field)):
        if number == 1:
            dense, csr = as_view(value, field), None
        elif number == 2:
            dense, csr = None, as_view(value, field)
        elif number == 3:
            dtype = as_int(value, f"{field}.dtype")
        elif number == 4:
            shape += as_ints(value, f"{field}.shape")
    kind = dtype_of(dtype, field)
    if csr is not None:
        return _read_sparse(csr, kind, shape, field)
    values = numbers(dense if dense is not None else memoryview(b""), kind, field)
    try:
        values = values.reshape(shape) if shape else values
    except ValueError as error:
        raise ProtobufError(f"{field}: {values.size} numbers do not fit the shape {shape}") from error
    return TensorData.trusted(values, _DTYPE_NAME[kind], values.shape)


def _read_sparse(csr: memoryview, kind: DType, shape: list[int], field: str) -> TensorData:
    parts = {number: as_view(value, field) for number, _, value in fields(csr)}
    empty = memoryview(b"")
    try:
        return TensorData.model_validate(
            {
                "data": numbers(parts.get(1, empty), kind, field),
                "dtype": _DTYPE_NAME[kind],
                "shape": tuple(shape),
                "sparse_crow_indices": numbers(parts.get(2, empty), DType.INT64, field),
                "sparse_col_indices": numbers(parts.get(3, empty), DType.INT64, field),
            }
        )
    except ValidationError as error:
        raise ProtobufError(f"{field}: {error.errors()[0]['msg']}") from error


def dtype_of(value: int, field: str) -> DType:
    """Return the number type of a wire value. Raises ProtobufError."""
    try:
        kind = DType(value)
    except ValueError:
        kind = DType.UNSPECIFIED
    if kind is DType.UNSPECIFIED:
        raise ProtobufError(f"{field}: {value} is not a known number type")
    return kind


def dtype_name(kind: DType) -> str:
    """Return the type's name in ``TensorData``: ``float32`` or ``int64``."""
    return _DTYPE_NAME[kind]


def item_size(kind: DType) -> int:
    """Return the size of a number on the wire, in bytes."""
    return int(_ITEM[kind][-1])


def numbers(view: memoryview, kind: DType, field: str) -> "NDArray[Any]":
    """Return a view of the numbers in bytes, widened if ``TensorData`` lacks the type. Raises ProtobufError."""
    import numpy as np

    if len(view) % item_size(kind):
        raise ProtobufError(f"{field}: {len(view)} bytes are not a whole number of {kind.name.lower()} values")
    values: NDArray[Any] = np.frombuffer(view, dtype=_ITEM[kind])
    if kind is DType.BFLOAT16:
        return (values.astype("<u4") << 16).view("<f4")
    if kind is DType.INT32:
        return values.astype("<i8")
    return values
