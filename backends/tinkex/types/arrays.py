"""Numbers held as they were given, numpy arrays and plain lists alike: never copied, numpy not imported for it."""

import sys
from array import array
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import PlainSerializer, PlainValidator

if TYPE_CHECKING:
    from numpy.typing import NDArray


def is_numpy(value: object) -> bool:
    """Whether this is a numpy array. A process that has none has not imported numpy."""
    numpy = sys.modules.get("numpy")
    return numpy is not None and isinstance(value, numpy.ndarray)


def is_torch(value: object) -> bool:
    """Whether this is a torch tensor."""
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(value, torch.Tensor)


def as_list(value: Any) -> list[Any]:
    """The numbers, flat, as a plain list."""
    if is_numpy(value):
        flat: list[Any] = value.ravel().tolist()
        return flat
    return list(value)


def as_numpy(value: Any, dtype: str) -> "NDArray[Any]":
    """The numbers as a little-endian C-contiguous array of ``dtype``; the array itself when it is one already.

    Raises:
        ValueError, TypeError, OverflowError: the numbers do not fit.
    """
    import numpy as np

    array = np.ascontiguousarray(value, dtype=np.dtype(dtype).newbyteorder("<"))
    if array is not value and array.dtype.kind == "i" and is_numpy(value) and value.dtype.kind == "f":
        raise TypeError("floating-point numbers where whole numbers belong")
    return array


def same_numbers(left: Any, right: Any) -> bool:
    """Equality whatever holds the numbers."""
    if is_numpy(left) or is_numpy(right):
        import numpy as np

        return bool(np.array_equal(np.asarray(left), np.asarray(right)))
    if left is None or right is None:
        return left is right
    return list(left) == list(right)


def _held(value: Any) -> Any:
    if isinstance(value, list | tuple | range | array | memoryview) or is_numpy(value):
        return value
    raise ValueError("expected a list, a tuple or a numpy array of numbers")


Numbers = Annotated[Any, PlainValidator(_held), PlainSerializer(as_list)]
"""A flat or shaped collection of numbers, held without a copy; JSON has it as a flat list."""
