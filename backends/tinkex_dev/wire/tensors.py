"""Decoding and validation of prompts and tensors, so that the model never computes on malformed ones."""

import base64
import hashlib
from collections.abc import Mapping, Sequence, Set
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import InvalidField
from backends.tiny_lm.network import CONTEXT_LENGTH, VOCAB
from crucible.rendering.image_header import image_size
from crucible.rendering.tokenizer import ByteTokenizer

FieldPath = tuple[str | int, ...]
"""Path of a field in a body, as in error details."""

_TOKENS_PER_POINTER: Final = 16
_TOKENIZER: Final = ByteTokenizer()
_DTYPES: Final = ("float32", "int64")
_IMAGE_FIELDS: Final = {"type", "data", "format", "location", "expected_tokens", "tokens", "height", "width"}
_TENSOR_FIELDS: Final = {"data", "dtype", "shape", "sparse_crow_indices", "sparse_col_indices"}


def refuse_unknown(value: Mapping[str, Any], known: Set[str], path: FieldPath) -> None:
    """Raise InvalidField at the first field of an object that is not known."""
    for name in value:
        if name not in known:
            raise InvalidField.at((*path, name), f"unknown field; known are {', '.join(sorted(known))}")


def tokens_of_chunks(chunks: object, path: FieldPath) -> NDArray[np.int64]:
    """The token ids of a prompt, with those of its images."""
    if not isinstance(chunks, Sequence) or isinstance(chunks, str) or not chunks:
        raise InvalidField.at(path, "expected a list with at least one chunk")
    parts = [_chunk(chunk, (*path, index)) for index, chunk in enumerate(chunks)]
    return checked_tokens(np.concatenate(parts), path)


def checked_tokens(tokens: NDArray[np.int64], path: FieldPath) -> NDArray[np.int64]:
    """Return the tokens unchanged. Raises InvalidField if there are none, too many, or unknown ids."""
    if not 0 < len(tokens) <= CONTEXT_LENGTH:
        raise InvalidField.at(path, f"{len(tokens)} tokens; 1 to {CONTEXT_LENGTH} are allowed")
    if tokens.min() < 0 or tokens.max() >= VOCAB:
        unknown = int(tokens[(tokens < 0) | (tokens >= VOCAB)][0])
        raise InvalidField.at(path, f"token {unknown} is outside the vocabulary; ids are 0 to {VOCAB - 1}")
    return tokens


def _chunk(chunk: object, path: FieldPath) -> NDArray[np.int64]:
    kind = chunk.get("type", "encoded_text") if isinstance(chunk, Mapping) else None
    if isinstance(chunk, Mapping) and kind == "encoded_text":
        refuse_unknown(chunk, {"type", "tokens"}, path)
        return _integers(chunk.get("tokens"), (*path, "tokens"))
    if isinstance(chunk, Mapping) and kind == "image":
        refuse_unknown(chunk, _IMAGE_FIELDS, path)
        return image_tokens(_image_bytes(chunk.get("data"), path), chunk.get("format"), _expected(chunk), path)
    if isinstance(chunk, Mapping) and kind == "image_asset_pointer":
        refuse_unknown(chunk, _IMAGE_FIELDS, path)
        return pointer_tokens(chunk.get("location"), _expected(chunk), path)
    raise unsupported_chunk(kind, path)


def unsupported_chunk(kind: object, path: FieldPath) -> InvalidField:
    """The error for a chunk of an unsupported type."""
    allowed = "encoded_text, image, image_asset_pointer"
    return InvalidField.at((*path, "type"), f"{kind!r} is not supported; allowed are {allowed}")


def image_tokens(data: bytes, image_format: object, expected: object, path: FieldPath) -> NDArray[np.int64]:
    """The tokens of an image: as many as its size asks for, which follow from its bytes. ``expected`` is the number
    that the client has counted, or None.

    Raises:
        InvalidField: it is no image of that format, or has another number of tokens.
    """
    if image_format not in ("png", "jpeg"):
        raise InvalidField.at((*path, "format"), f"{image_format!r} is not supported; allowed are png, jpeg")
    size = image_size(data, str(image_format))
    if size is None or 0 in size:
        raise InvalidField.at((*path, "data"), f"is not the file of a {image_format} image")
    count = _TOKENIZER.image_length(*size)
    if count > CONTEXT_LENGTH:
        raise InvalidField.at((*path, "data"), f"an image of {size[0]} x {size[1]} has {count} tokens, too many")
    if expected not in (None, count):
        raise InvalidField.at((*path, "expected_tokens"), f"{expected!r} is wrong: this image has {count} tokens")
    return _hashed_tokens(data, count)


def pointer_tokens(location: object, expected: object, path: FieldPath) -> NDArray[np.int64]:
    """The tokens of an image elsewhere, which nothing here fetches: ``expected``, by default sixteen, which follow
    from its address."""
    if not isinstance(location, str) or not location:
        raise InvalidField.at((*path, "location"), "expected the address of an image")
    count = _TOKENS_PER_POINTER if expected is None else expected
    if not isinstance(count, int) or isinstance(count, bool) or not 0 < count <= CONTEXT_LENGTH:
        raise InvalidField.at(
            (*path, "expected_tokens"), f"{count!r} is not allowed; expected 1 to {CONTEXT_LENGTH} tokens"
        )
    return _hashed_tokens(location.encode(), count)


def _hashed_tokens(content: bytes, count: int) -> NDArray[np.int64]:
    """A marker, and tokens that differ from those of other content: what this model sees of an image."""
    seen = np.frombuffer(hashlib.shake_256(content).digest(count - 1), dtype=np.uint8)
    return np.concatenate([np.array([ByteTokenizer.IMAGE]), seen]).astype(np.int64)


def _image_bytes(text: object, path: FieldPath) -> bytes:
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        raise InvalidField.at((*path, "data"), "is not base64") from None


def _expected(chunk: Mapping[str, Any]) -> object:
    expected = chunk.get("expected_tokens")
    return chunk.get("tokens") if expected is None else expected


def _integers(values: object, path: FieldPath) -> NDArray[np.int64]:
    array = _array(values, path)
    if array.size == 0:
        return np.zeros(0, dtype=np.int64)
    if array.dtype.kind not in "iu" or array.ndim != 1:
        raise InvalidField.at(path, "expected a list of integers")
    return _cast(array, np.int64, path)


def _cast(array: NDArray[Any], dtype: type[np.generic], path: FieldPath) -> NDArray[Any]:
    """The array as another type. Raises InvalidField for a number that the type cannot hold."""
    if np.issubdtype(dtype, np.integer):
        if array.dtype.kind == "u" and array.size and array.max() > np.iinfo(np.int64).max:
            raise InvalidField.at(path, "integers beyond 64 bits are not allowed")
        return array.astype(dtype)
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if np.any(np.isinf(cast) & np.isfinite(array)):
        raise InvalidField.at(path, "numbers beyond the range of float32 are not allowed")
    return cast


def _array(values: object, path: FieldPath) -> NDArray[Any]:
    if not isinstance(values, list):
        raise InvalidField.at(path, "expected a list of numbers")
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError):
        array = np.asarray(None)
    if array.dtype.kind not in "iuf":
        raise InvalidField.at(path, "expected a list of numbers")
    return array


def tensor_of_json(value: object, path: FieldPath) -> NDArray[np.generic]:
    """The array of a tensor, dense or sparse. Raises InvalidField."""
    if not isinstance(value, Mapping):
        raise InvalidField.at(path, "expected an object with data, dtype and shape")
    refuse_unknown(value, _TENSOR_FIELDS, path)
    dtype = value.get("dtype", "float32")
    if not isinstance(dtype, str) or dtype not in _DTYPES:
        raise InvalidField.at((*path, "dtype"), f"{dtype!r} is not allowed; allowed are {', '.join(_DTYPES)}")
    flat = _array(value.get("data"), (*path, "data"))
    if dtype == "int64" and flat.size and flat.dtype.kind not in "iu":
        raise InvalidField.at((*path, "data"), "expected integers for dtype int64")
    flat = _cast(flat, np.float32 if dtype == "float32" else np.int64, (*path, "data"))
    shape = value.get("shape")
    if shape is None:
        return flat
    if value.get("sparse_crow_indices") is not None:
        rows = _integers(value["sparse_crow_indices"], (*path, "sparse_crow_indices"))
        columns = _integers(value.get("sparse_col_indices"), (*path, "sparse_col_indices"))
        return dense_of_csr(flat, rows, columns, shape, path)
    return _shaped(flat, shape, path)


def _shaped(flat: NDArray[Any], shape: Any, path: FieldPath) -> NDArray[Any]:
    try:
        return flat.reshape([_length(size) for size in shape])
    except (ValueError, TypeError):
        raise InvalidField.at((*path, "shape"), f"{shape!r} does not fit the {flat.size} values of data") from None


def dense_of_csr(
    values: NDArray[Any], crow: NDArray[np.int64], columns: NDArray[np.int64], shape: Any, path: FieldPath
) -> NDArray[Any]:
    """The dense form of a compressed-row sparse matrix."""
    try:
        height, width = (_length(size) for size in shape)
        if height * width > CONTEXT_LENGTH * VOCAB:
            raise ValueError("too big")
        dense = np.zeros((height, width), dtype=values.dtype)
        dense[np.repeat(np.arange(height), np.diff(crow)), columns] = values
    except (ValueError, TypeError, IndexError):
        raise InvalidField.at(
            (*path, "sparse_crow_indices"),
            f"{crow.size} row pointers and {columns.size} columns do not describe "
            f"{values.size} values of shape {shape!r}",
        ) from None
    return dense


def _length(size: object) -> int:
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(size)
    return size
