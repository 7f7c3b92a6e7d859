"""Prompts and loss inputs from the wire, checked: what the model computes on is never malformed."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.model.losses import LOSSES
from backends.tinkex_dev.model.network import VOCAB
from backends.tinkex_dev.options import CONTEXT_LENGTH
from backends.tinkex_dev.requests import ForwardBackwardInput
from backends.tinkex_dev.runs import Batch, Example
from crucible.tokenizer import ByteTokenizer

Place = tuple[str | int, ...]

_TOKENS_PER_IMAGE: Final = 16
_KINDS: Final = {"float32": "f", "int64": "i"}


def batch_of_json(body: ForwardBackwardInput, place: Place, *, forward_only: bool) -> Batch:
    """The batch of a JSON body.

    Raises:
        InvalidField: something in it is wrong; the error says where.
    """
    examples = [_example(datum, (*place, "data", index)) for index, datum in enumerate(body.data)]
    config = finite_settings(body.loss_fn_config, place)
    return checked(Batch(examples, body.loss_fn, config, forward_only), place)


def finite_settings(config: Mapping[str, float | str] | None, place: Place) -> dict[str, float]:
    """A loss's settings, if they are finite numbers."""
    numbers: dict[str, float] = {}
    for key, value in (config or {}).items():
        if isinstance(value, str) or not np.isfinite(value):
            raise InvalidField.at((*place, "loss_fn_config", key), f"{value!r} is not a finite number")
        numbers[key] = float(value)
    return numbers


def _example(datum: Mapping[str, Any], place: Place) -> Example:
    model_input = datum.get("model_input")
    chunks = model_input.get("chunks") if isinstance(model_input, Mapping) else None
    tokens = tokens_of_chunks(chunks, (*place, "model_input", "chunks"))
    inputs = datum.get("loss_fn_inputs")
    if not isinstance(inputs, Mapping):
        raise InvalidField.at((*place, "loss_fn_inputs"), "an object with one tensor a name is needed")
    tensors = {name: _tensor(value, (*place, "loss_fn_inputs", name)) for name, value in inputs.items()}
    return Example(tokens, tensors)


def tokens_of_chunks(chunks: object, place: Place) -> NDArray[np.int64]:
    """The token ids of a prompt; an image stands for as many image tokens as it says, or sixteen."""
    if not isinstance(chunks, Sequence) or isinstance(chunks, str) or not chunks:
        raise InvalidField.at(place, "a list with at least one chunk is needed")
    parts = [_chunk(chunk, (*place, index)) for index, chunk in enumerate(chunks)]
    return checked_tokens(np.concatenate(parts), place)


def checked_tokens(tokens: NDArray[np.int64], place: Place) -> NDArray[np.int64]:
    """The same tokens, if there are some, not too many, and all in the vocabulary."""
    if not 0 < len(tokens) <= CONTEXT_LENGTH:
        raise InvalidField.at(place, f"{len(tokens)} tokens; 1 to {CONTEXT_LENGTH} are allowed")
    if tokens.min() < 0 or tokens.max() >= VOCAB:
        wrong = int(tokens[(tokens < 0) | (tokens >= VOCAB)][0])
        raise InvalidField.at(place, f"token {wrong} is outside the vocabulary; ids are 0 to {VOCAB - 1}")
    return tokens


def _chunk(chunk: object, place: Place) -> NDArray[np.int64]:
    kind = chunk.get("type", "encoded_text") if isinstance(chunk, Mapping) else None
    if isinstance(chunk, Mapping) and kind == "encoded_text":
        return _integers(chunk.get("tokens"), (*place, "tokens"))
    if isinstance(chunk, Mapping) and kind in ("image", "image_asset_pointer"):
        return image_tokens(chunk.get("expected_tokens") or chunk.get("tokens"), place)
    raise unsupported_chunk(kind, place)


def unsupported_chunk(kind: object, place: Place) -> InvalidField:
    """The error for a chunk that a model of bytes can make nothing of."""
    allowed = "encoded_text, image, image_asset_pointer"
    return InvalidField.at((*place, "type"), f"{kind!r} is not supported; allowed are {allowed}")


def image_tokens(expected: object, place: Place) -> NDArray[np.int64]:
    """As many image tokens as an image stands for; sixteen where it does not say."""
    place = (*place, "expected_tokens")
    count = _TOKENS_PER_IMAGE if expected is None else expected
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= CONTEXT_LENGTH:
        raise InvalidField.at(place, f"{count!r} is not allowed; 1 to {CONTEXT_LENGTH} tokens are")
    return np.full(count, ByteTokenizer.IMAGE, dtype=np.int64)


def _integers(values: object, place: Place) -> NDArray[np.int64]:
    found = _array(values, place)
    if found.size == 0:
        return np.zeros(0, dtype=np.int64)
    if found.dtype.kind not in "iu" or found.ndim != 1:
        raise InvalidField.at(place, "a list of whole numbers is needed")
    return found.astype(np.int64)


def _array(values: object, place: Place) -> NDArray[Any]:
    if not isinstance(values, list):
        raise InvalidField.at(place, "a list of numbers is needed")
    try:
        found = np.asarray(values)
    except (ValueError, OverflowError):
        found = np.asarray(None)
    if found.dtype.kind not in "iuf":
        raise InvalidField.at(place, "a list of numbers is needed")
    return found


def _tensor(value: object, place: Place) -> NDArray[np.generic]:
    if not isinstance(value, Mapping):
        raise InvalidField.at(place, "a tensor is an object with data, dtype and shape")
    dtype = value.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in _KINDS:
        raise InvalidField.at((*place, "dtype"), f"{dtype!r} is not allowed; allowed are {', '.join(_KINDS)}")
    flat = _array(value.get("data"), (*place, "data"))
    if dtype == "int64" and flat.size and flat.dtype.kind not in "iu":
        raise InvalidField.at((*place, "data"), "whole numbers are needed where dtype is int64")
    flat = flat.astype(np.float32 if dtype == "float32" else np.int64)
    shape = value.get("shape")
    if shape is None:
        return flat
    if value.get("sparse_crow_indices") is not None:
        rows = _integers(value["sparse_crow_indices"], (*place, "sparse_crow_indices"))
        columns = _integers(value.get("sparse_col_indices"), (*place, "sparse_col_indices"))
        return dense_of_csr(flat, rows, columns, shape, place)
    return shaped(flat, shape, place)


def shaped(flat: NDArray[Any], shape: Any, place: Place) -> NDArray[Any]:
    """The values in their shape; a scalar counts as one value."""
    try:
        return flat.reshape([_length(size) for size in shape])
    except (ValueError, TypeError):
        raise InvalidField.at((*place, "shape"), f"{shape!r} does not fit the {flat.size} values of data") from None


def dense_of_csr(
    values: NDArray[Any], crow: NDArray[np.int64], columns: NDArray[np.int64], shape: Any, place: Place
) -> NDArray[Any]:
    """A sparse matrix (compressed rows) written out, zero where it lists nothing."""
    try:
        height, width = (_length(size) for size in shape)
        if height * width > CONTEXT_LENGTH * VOCAB:
            raise ValueError("too big")
        dense = np.zeros((height, width), dtype=values.dtype)
        dense[np.repeat(np.arange(height), np.diff(crow)), columns] = values
    except (ValueError, TypeError, IndexError):
        raise InvalidField.at(
            (*place, "sparse_crow_indices"),
            f"{crow.size} row pointers and {columns.size} columns do not describe "
            f"{values.size} values of shape {shape!r}",
        ) from None
    return dense


def _length(size: object) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(size)
    return size


def checked(batch: Batch, place: Place) -> Batch:
    """The same batch, if its loss is known and every example has what that loss needs."""
    loss = LOSSES.get(batch.loss_fn)
    if loss is None:
        raise InvalidField.at(
            (*place, "loss_fn"), f"{batch.loss_fn!r} is not supported; allowed are {', '.join(LOSSES)}"
        )
    for key in batch.config:
        if key not in loss.settings:
            allowed = ", ".join(sorted(loss.settings)) or "none"
            raise InvalidField.at(
                (*place, "loss_fn_config", key), f"not a setting of {batch.loss_fn}; allowed are: {allowed}"
            )
    for index, example in enumerate(batch.examples):
        where = (*place, "data", index, "loss_fn_inputs")
        for name in loss.required:
            if name not in example.loss_inputs:
                raise InvalidField.at((*where, name), f"{batch.loss_fn} needs it")
        _check_inputs(example, (*loss.required, *loss.optional), where)
    return batch


def _check_inputs(example: Example, names: Sequence[str], where: Place) -> None:
    targets = example.loss_inputs["target_tokens"]
    if targets.ndim not in (1, 2) or len(targets) != len(example.tokens) or targets.dtype.kind != "i":
        raise InvalidField.at(
            (*where, "target_tokens"),
            f"shape {list(targets.shape)} of {targets.dtype}; int64 with one row for each of the "
            f"{len(example.tokens)} tokens of model_input is needed",
        )
    numbers = np.asarray(targets, dtype=np.int64)
    if numbers.size == 0 or numbers.min() < 0 or numbers.max() >= VOCAB:
        raise InvalidField.at(
            (*where, "target_tokens"), f"holds ids outside the vocabulary; ids are 0 to {VOCAB - 1}"
        )
    for name in names:
        value = example.loss_inputs.get(name)
        if value is None or name == "target_tokens":
            continue
        if value.shape != targets.shape:
            raise InvalidField.at(
                (*where, name), f"shape {list(value.shape)}; target_tokens has {list(targets.shape)}"
            )
        if not np.all(np.isfinite(np.asarray(value, dtype=np.float64))):
            raise InvalidField.at((*where, name), "holds a value that is not finite")
