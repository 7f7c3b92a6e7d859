"""Splitting of large batches into several requests, and joining of their results."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

from backends.tinkex.types.client_config import ClientConfig
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import DmelChunk, EncodedTextChunk, ImageAssetPointerChunk, ModelInputChunk
from backends.tinkex.types.tensor_data import TensorData

_ITEM_BYTES: Final = {"float32": 4, "int64": 8}


def chunked(data: Sequence[Datum], config: ClientConfig) -> list[Sequence[Datum]]:
    """Split a batch, in order, by the server's limits of count and bytes.

    Sizes are those of the binary encoding, whichever encoding is used, so that a batch is always split the same
    way.
    """
    return list(_chunks(data, config.fwdbwd_max_chunk_len, config.fwdbwd_max_chunk_bytes_count))


def _chunks(data: Sequence[Datum], max_count: int, max_bytes: int) -> Iterator[Sequence[Datum]]:
    begin = size = 0
    for index, datum in enumerate(data):
        datum_size = datum_bytes(datum)
        count = index - begin
        if count and (count == max_count or size + datum_size > max_bytes):
            yield data[begin:index]
            begin, size = index, 0
        size += datum_size
    yield data[begin:]


def datum_bytes(datum: Datum) -> int:
    """Return the approximate size of a datum in the binary encoding, in bytes."""
    return sum(map(_chunk_bytes, datum.model_input.chunks)) + sum(map(_tensor_bytes, datum.loss_fn_inputs.values()))


def _chunk_bytes(chunk: ModelInputChunk) -> int:
    if isinstance(chunk, EncodedTextChunk):
        return 4 * len(chunk.tokens)
    if isinstance(chunk, ImageChunk):
        return len(chunk.data)
    if isinstance(chunk, ImageAssetPointerChunk):
        return len(chunk.location)
    assert isinstance(chunk, DmelChunk)
    return len(chunk.dmel)


def _tensor_bytes(tensor: TensorData) -> int:
    rows = tensor.sparse_crow_indices
    flat = rows is None and tensor.shape is not None and len(tensor.shape) == 1
    size = _ITEM_BYTES[tensor.dtype] * (tensor.length if flat else tensor.size)
    if rows is not None:
        size += 8 * (len(rows) + len(tensor.sparse_col_indices or ()))
    return size


def joined(results: Sequence[ForwardBackwardOutput]) -> ForwardBackwardOutput:
    """Join the results of all chunks as if they were of one request."""
    if len(results) == 1:
        return results[0]
    return ForwardBackwardOutput.model_construct(
        loss_fn_output_type=results[0].loss_fn_output_type,
        loss_fn_outputs=[output for result in results for output in result.loss_fn_outputs],
        metrics=joined_metrics([result.metrics for result in results], [len(r.loss_fn_outputs) for r in results]),
    )


def joined_metrics(metrics: Sequence[Mapping[str, float]], weights: Sequence[int]) -> dict[str, float]:
    """Join the metrics that every chunk has by their suffix; ``:mean`` is weighted by the chunks' datum counts.

    Metrics with an unknown suffix are dropped, since a wrongly joined number is worse than none.
    """
    result: dict[str, float] = {}
    for key in metrics[0]:
        if not all(key in chunk for chunk in metrics):
            continue
        values = [chunk[key] for chunk in metrics]
        suffix = key.rpartition(":")[2]
        if suffix == "unique":
            result[key] = values[0]
            result.update({f"{key}_{index}": value for index, value in enumerate(values[1:], start=1)})
        elif suffix in _JOINS:
            result[key] = _JOINS[suffix](values, weights)
    return result


def _mean(values: Sequence[float], weights: Sequence[int]) -> float:
    total = sum(weights)
    if total == 0:
        return sum(values) / len(values)
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / total


def _hash2(values: Sequence[float], weights: Sequence[int]) -> float:
    mask = 2**64 - 1
    return sum(int(value) & mask for value in values) & mask


_JOINS: Final[Mapping[str, Callable[[Sequence[float], Sequence[int]], float]]] = {
    "sum": lambda values, weights: sum(values),
    "mean": _mean,
    "min": lambda values, weights: min(values),
    "max": lambda values, weights: max(values),
    "slack": lambda values, weights: max(values) - _mean(values, weights),
    "hash2": _hash2,
}
