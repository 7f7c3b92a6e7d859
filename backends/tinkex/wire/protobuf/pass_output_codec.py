"""Protobuf codec of ``ForwardBackwardOutput``: one buffer per array name over all datums, read as views."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby, pairwise
from typing import TYPE_CHECKING, Any, Final

from backends.tinkex.types.arrays import as_numpy
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.body import PROTOBUF, EncodedBody, Piece
from backends.tinkex.wire.protobuf.field_reader import (
    ProtobufError,
    Value,
    as_double,
    as_int,
    as_ints,
    as_text,
    as_view,
    entry,
    fields,
)
from backends.tinkex.wire.protobuf.field_writer import delimited, double, header, integer, memory_of, text, varint
from backends.tinkex.wire.protobuf.tensor_codec import DType, dtype_name, dtype_of, item_size, numbers

if TYPE_CHECKING:
    from numpy.typing import NDArray

_WIRE_DTYPE: Final = {"float32": DType.FLOAT32, "int64": DType.INT64}
_DEFAULT_TYPE: Final = "ArrayRecord"
_MAX_EMPTY_DATUMS: Final = 65_536
"""Datums without arrays take no bytes in a message, but memory here."""


def read_pass_output(body: bytes | memoryview) -> ForwardBackwardOutput:
    """Decode an output, with arrays as views into the body. Raises ProtobufError."""
    kind = _DEFAULT_TYPE
    outputs: list[dict[str, TensorData]] = []
    metrics: dict[str, float] = {}
    for number, _, value in fields(memoryview(body)):
        if number == 1:
            kind = as_text(value, "loss_fn_output_type").rpartition(":")[2] or _DEFAULT_TYPE
        elif number == 2:
            outputs += _read_record(as_view(value, "loss_fn_outputs"))
            if len(outputs) > len(body) + _MAX_EMPTY_DATUMS:
                raise ProtobufError(f"loss_fn_outputs: {len(outputs)} datums in {len(body)} bytes")
        elif number == 3:
            key, metric = entry(value, "metrics")
            metrics[key] = 0.0 if metric is None else as_double(metric, f"metrics.{key}")
    return ForwardBackwardOutput.model_construct(loss_fn_output_type=kind, loss_fn_outputs=outputs, metrics=metrics)


def _read_record(message: memoryview) -> list[dict[str, TensorData]]:
    count = 0
    columns: dict[str, list[TensorData]] = {}
    for number, _, value in fields(message):
        if number == 2:
            name, batched = entry(value, "fields")
            columns[name] = _read_batched(batched if batched is not None else memoryview(b""), name)
        elif number == 3:
            count = as_int(value, "num_datums")
    lengths = {len(column) for column in columns.values()}
    if not count and lengths:
        count = max(lengths)
    if not 0 <= count <= len(message) + _MAX_EMPTY_DATUMS or (columns and lengths != {count}):
        raise ProtobufError(f"num_datums is {count}, and the fields have {sorted(lengths)} arrays")
    if not columns:
        return [{} for _ in range(count)]
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _read_batched(message: Value, name: str) -> list[TensorData]:
    data, offsets, dtype, trailing = memoryview(b""), memoryview(b""), 0, []
    for number, _, value in fields(as_view(message, name)):
        if number == 1:
            data = as_view(value, name)
        elif number == 2:
            offsets = as_view(value, f"{name}.offsets")
        elif number == 3:
            dtype = as_int(value, f"{name}.dtype")
        elif number == 4:
            trailing += as_ints(value, f"{name}.trailing_shape")
    kind = dtype_of(dtype, name)
    values = numbers(data, kind, name)
    bounds = numbers(offsets, DType.INT64, f"{name}.offsets")
    return _split(values, bounds, item_size(kind), dtype_name(kind), tuple(trailing), name)


def _split(
    values: "NDArray[Any]",
    bounds: "NDArray[Any]",
    item: int,
    dtype: str,
    trailing: tuple[int, ...],
    name: str,
) -> list[TensorData]:
    row = 1
    for side in trailing:
        row *= side
    previous = 0
    arrays = []
    for begin, end in pairwise(bounds.tolist()):
        if begin < previous or end < begin or end > values.size * item or (end - begin) % item:
            raise ProtobufError(f"{name}.offsets: {begin} to {end} is not a range of whole numbers in the data")
        part = values[begin // item : end // item]
        if trailing:
            if row < 0 or (part.size % row if row else part.size):
                raise ProtobufError(f"{name}: {part.size} numbers are not rows of shape {trailing}")
            part = part.reshape((part.size // row if row else 0, *trailing))
        arrays.append(TensorData.trusted(part, dtype, part.shape))
        previous = end
    return arrays


def write_pass_output(
    outputs: Sequence[Mapping[str, Any]], metrics: Mapping[str, float], *, output_type: str = _DEFAULT_TYPE
) -> EncodedBody:
    """Encode an output. ``outputs`` has the arrays (or TensorData) of each datum by name."""
    pieces: list[Piece] = [text(1, output_type)]
    rows = [{name: _array(value) for name, value in output.items()} for output in outputs]
    for record in _records(rows):
        _write_record(record, output_type, pieces)
    for key, value in metrics.items():
        pieces.append(delimited(3, text(1, key) + double(2, float(value))))
    return EncodedBody(pieces, PROTOBUF)


def _records(rows: Sequence[dict[str, "NDArray[Any]"]]) -> Iterator[list[dict[str, "NDArray[Any]"]]]:
    """Group consecutive datums whose arrays differ only in their first dimension."""
    for _, group in groupby(rows, key=_layout):
        yield list(group)


def _layout(row: Mapping[str, "NDArray[Any]"]) -> tuple[tuple[str, str, tuple[int, ...]], ...]:
    return tuple((name, array.dtype.name, array.shape[1:]) for name, array in row.items())


def _write_record(rows: Sequence[Mapping[str, "NDArray[Any]"]], kind: str, pieces: list[Piece]) -> None:
    header_index = len(pieces)
    pieces.append(b"")
    tag_field = text(1, kind)
    pieces.append(tag_field)
    size = len(tag_field)
    for name in rows[0]:
        size += _write_batched(name, [row[name] for row in rows], pieces)
    tail = integer(3, len(rows))
    pieces.append(tail)
    pieces[header_index] = header(2, size + len(tail))


def _write_batched(name: str, arrays: Sequence["NDArray[Any]"], pieces: list[Piece]) -> int:
    import numpy as np

    parts = [memory_of(array) for array in arrays]
    offsets = np.zeros(len(parts) + 1, dtype="<i8")
    np.cumsum([len(part) for part in parts], out=offsets[1:])
    data_size = int(offsets[-1])
    trailing = arrays[0].shape[1:]
    meta = delimited(2, offsets.tobytes()) + integer(3, _WIRE_DTYPE[arrays[0].dtype.name])
    if trailing:
        meta += delimited(4, b"".join(map(varint, trailing)))
    before = meta + header(1, data_size)
    key = text(1, name)
    batched = header(2, len(before) + data_size) + before
    prefix = header(2, len(key) + len(batched) + data_size) + key + batched
    pieces.append(prefix)
    pieces += parts
    return len(prefix) + data_size


def _array(value: Any) -> "NDArray[Any]":
    import numpy as np

    array = value.to_numpy() if isinstance(value, TensorData) else np.asarray(value)
    array = as_numpy(array, "int64" if array.dtype.kind in "iub" else "float32")
    return array.reshape(1) if array.ndim == 0 else array
