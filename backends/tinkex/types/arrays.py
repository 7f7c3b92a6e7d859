"""Arrays of numbers as numpy arrays or plain lists, stored without a copy and without importing numpy."""

import sys
from array import array
from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def is_numpy(value: object) -> bool:
    """Return whether the value is a numpy array, without importing numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_torch(value: object) -> bool:
    """Return whether the value is a torch tensor, without importing torch."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_list(value: Any) -> list[Any]:
    """Return the numbers as a flat list."""
    if is_numpy(value):
        flat: list[Any] = value.ravel().tolist()
        return flat
    return list(value)


def as_numpy(value: Any, dtype: str) -> "NDArray[Any]":
    """Return the numbers as a little-endian C-contiguous array of ``dtype``; copy only when needed.

    Raises:
        ValueError, TypeError, OverflowError: the numbers do not fit.
    """
    import numpy as np

    wanted = _little_endian(dtype)
    if type(value) is np.ndarray and value.dtype == wanted and value.ndim and value.flags.c_contiguous:
        return value
    array = np.ascontiguousarray(value, dtype=wanted)
    if array is not value and array.dtype.kind == "i" and is_numpy(value) and value.dtype.kind == "f":
        raise TypeError("floating-point numbers where whole numbers belong")
    return array


@lru_cache(maxsize=16)
def _little_endian(dtype: str) -> "np.dtype[Any]":
    import numpy as np

    return np.dtype(dtype).newbyteorder("<")


def copied_numbers(value: Any) -> Any:
    """Return the numbers in memory of their own; immutable collections are returned as they are."""
    if value is None or isinstance(value, tuple | range):
        return value
    if isinstance(value, memoryview):
        return memoryview(value.tobytes()).cast(value.format)  # type: ignore[call-overload]  # any format
    return value.copy() if is_numpy(value) else value[:]


def same_numbers(left: Any, right: Any) -> bool:
    """Return whether two collections of any type hold equal numbers."""
    if is_numpy(left) or is_numpy(right):
        import numpy as np

        return bool(np.array_equal(np.asarray(left), np.asarray(right)))
    if left is None or right is None:
        return left is right
    return list(left) == list(right)


def _check_collection(value: Any) -> Any:
    if isinstance(value, list | tuple | range | array | memoryview) or is_numpy(value):
        return value
    raise ValueError("expected a list, a tuple or a numpy array of numbers")


Numbers = Annotated[Any, PlainValidator(_check_collection), PlainSerializer(as_list)]
"""A flat or shaped collection of numbers, stored without a copy and serialized as a flat list."""
