"""Typed arrays, dense or sparse (CSR)."""

from typing import TYPE_CHECKING, Any, Final, Literal, Self

from pydantic import ConfigDict, model_validator

from backends.tinkex.types.arrays import Numbers, as_list, as_numpy, copied_numbers, is_numpy, same_numbers
from backends.tinkex.types.wire_record import ReadRecord

if TYPE_CHECKING:
    from numpy.typing import NDArray

TensorDtype = Literal["float32", "int64"]


class TensorData(ReadRecord):
    """An array with type and shape. ``data`` is a list or numpy array that is not copied; ``dtype`` defaults to
    its.

    A sparse array has its values in ``data``, its row pointers in ``sparse_crow_indices``, its columns in
    ``sparse_col_indices``, and its dense shape in ``shape``.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), arbitrary_types_allowed=True)

    data: Numbers
    dtype: TensorDtype
    shape: tuple[int, ...] | None = None
    sparse_crow_indices: Numbers | None = None
    sparse_col_indices: Numbers | None = None

    @model_validator(mode="before")
    @classmethod
    def _infer(cls, value: Any) -> Any:
        if not isinstance(value, dict) or "data" not in value:
            return value
        data = value["data"]
        if value.get("dtype") is None:
            value = {**value, "dtype": _dtype_of(data)}
        if is_numpy(data) and value.get("shape") is None and value.get("sparse_crow_indices") is None:
            value = {**value, "shape": data.shape}
        return value

    @model_validator(mode="after")
    def _check_shape(self) -> Self:
        if (self.sparse_crow_indices is None) != (self.sparse_col_indices is None):
            raise ValueError("sparse_crow_indices and sparse_col_indices belong together")
        if self.sparse_crow_indices is None:
            if self.shape is not None and _product(self.shape) != self.size:
                raise ValueError(f"shape {self.shape} does not hold {self.size} numbers")
        elif self.shape is None or len(self.shape) != 2:
            raise ValueError("a sparse tensor needs its dense shape (rows, columns)")
        return self

    @property
    def is_sparse(self) -> bool:
        """The array is sparse."""
        return self.sparse_crow_indices is not None

    @property
    def size(self) -> int:
        """The number of values in ``data``."""
        return int(self.data.size) if is_numpy(self.data) else len(self.data)

    @property
    def length(self) -> int:
        """The size of the first dimension: the number of positions."""
        if self.shape:
            return self.shape[0]
        return len(self.data) if self.shape is None else 1

    @classmethod
    def from_numpy(cls, array: "NDArray[Any]") -> Self:
        """Wrap an array without a copy. Raises ValueError unless it has integers or floats."""
        return cls.trusted(array, _dtype_of(array), array.shape)

    @classmethod
    def from_torch(cls, tensor: Any) -> Self:
        """Wrap a torch tensor's memory; move it to the CPU and widen bfloat16 and half to float32."""
        dense = tensor.detach().cpu()
        dense = dense.float() if dense.is_floating_point() else dense.long()
        return cls.from_numpy(dense.contiguous().numpy())

    @classmethod
    def trusted(cls, data: Any, dtype: str, shape: tuple[int, ...]) -> Self:
        """Wrap a list or array of known type and shape without validation, for large batches."""
        tensor = cls.__new__(cls)
        fields = {
            "data": data,
            "dtype": dtype,
            "shape": shape,
            "sparse_crow_indices": None,
            "sparse_col_indices": None,
        }
        object.__setattr__(tensor, "__dict__", fields)
        object.__setattr__(tensor, "__pydantic_fields_set__", _FIELDS_SET)
        object.__setattr__(tensor, "__pydantic_extra__", {})
        object.__setattr__(tensor, "__pydantic_private__", None)
        return tensor

    def copied(self) -> Self:
        """Return a copy with memory of its own."""
        parts = ("data", "sparse_crow_indices", "sparse_col_indices")
        return self.model_copy(update={name: copied_numbers(getattr(self, name)) for name in parts})

    def to_numpy(self) -> "NDArray[Any]":
        """Return the dense array in its shape, without a copy if the stored array already fits."""
        values = as_numpy(self.data, self.dtype)
        if self.sparse_crow_indices is None:
            return values if self.shape is None else values.reshape(self.shape)
        return self._densified(values)

    def to_torch(self) -> Any:
        """Return the dense torch tensor. Requires torch."""
        import torch

        array = self.to_numpy()
        return torch.from_numpy(array if array.flags.writeable else array.copy())

    def tolist(self) -> list[Any]:
        """Return the dense values as lists nested by shape."""
        if self.shape is None or (len(self.shape) == 1 and not self.is_sparse):
            return as_list(self.data)
        nested: list[Any] = self.to_numpy().tolist()
        return nested

    def body(self) -> dict[str, Any]:
        """Return the JSON form."""
        body: dict[str, Any] = {"data": as_list(self.data), "dtype": self.dtype}
        if self.shape is not None:
            body["shape"] = list(self.shape)
        if self.sparse_crow_indices is not None:
            body["sparse_crow_indices"] = as_list(self.sparse_crow_indices)
            body["sparse_col_indices"] = as_list(self.sparse_col_indices)
        return body

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        return (
            (self.dtype, self.shape) == (other.dtype, other.shape)
            and same_numbers(self.data, other.data)
            and same_numbers(self.sparse_crow_indices, other.sparse_crow_indices)
            and same_numbers(self.sparse_col_indices, other.sparse_col_indices)
        )

    __hash__ = None  # type: ignore[assignment]

    def _densified(self, values: "NDArray[Any]") -> "NDArray[Any]":
        import numpy as np

        dense = np.zeros(self.shape or (), dtype=values.dtype)
        pointers = as_numpy(self.sparse_crow_indices, "int64")
        rows = np.repeat(np.arange(len(pointers) - 1), np.diff(pointers))
        dense[rows, as_numpy(self.sparse_col_indices, "int64")] = values
        return dense


_FIELDS_SET: Final = {"data", "dtype", "shape"}


def _dtype_of(data: Any) -> str:
    if is_numpy(data):
        if data.dtype.kind in "iub":
            return "int64"
        if data.dtype.kind == "f":
            return "float32"
        raise ValueError(f"numpy arrays of {data.dtype} are not allowed; allowed are integers and floats")
    if isinstance(data, list | tuple | range) and all(type(item) is int for item in data):
        return "int64"
    return "float32"


def _product(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
