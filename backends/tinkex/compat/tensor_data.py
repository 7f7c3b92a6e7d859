"""The SDK's ``TensorData``: a numpy array whose ``data`` is a flat list."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np

from backends.tinkex import types as ours

if TYPE_CHECKING:
    from numpy.typing import NDArray

TensorDtype = Literal["float32", "int64"]


@dataclass(frozen=True, eq=False, init=False, repr=False)
class TensorData:
    """An array with type and shape, dense or sparse (CSR: ``data`` has the listed values, ``shape`` is dense)."""

    data: Any
    dtype: TensorDtype
    shape: list[int] | None = None
    sparse_crow_indices: list[int] | None = None
    sparse_col_indices: list[int] | None = None

    def __init__(
        self,
        data: Any = (),
        dtype: TensorDtype | None = None,
        shape: list[int] | None = None,
        sparse_crow_indices: list[int] | None = None,
        sparse_col_indices: list[int] | None = None,
    ) -> None:
        if dtype not in ("float32", "int64"):
            raise TypeError(f"dtype: {dtype!r} is not allowed; allowed are float32 and int64")
        values: Any = () if data is None else data
        array: Any = np.asarray(values, dtype=str(dtype))
        if not array.flags.writeable:
            array = array.copy()  # torch warns of memory that it must not write
        if sparse_crow_indices is None and shape is not None:
            array = array.reshape(shape)
        fields = {
            "array": array,
            "dtype": dtype,
            "shape": None if shape is None else list(shape),
            "sparse_crow_indices": sparse_crow_indices,
            "sparse_col_indices": sparse_col_indices,
        }
        vars(self).update(fields)

    @property  # type: ignore[no-redef]  # a field whose value is made when it is read
    def data(self) -> list[Any]:
        """The values as a flat list."""
        values: list[Any] = self._array.ravel().tolist()
        return values

    def __repr__(self) -> str:
        return f"TensorData(dtype={self.dtype!r}, shape={self.shape}, size={self._array.size})"

    @classmethod
    def from_numpy(cls, array: "NDArray[Any]") -> Self:
        """Wrap an array. Raises ValueError unless it has integers or floats."""
        if array.dtype.kind not in "fiub":
            raise ValueError(f"numpy arrays of {array.dtype} are not allowed; allowed are integers and floats")
        return cls(array, "float32" if array.dtype.kind == "f" else "int64", list(array.shape))

    @classmethod
    def from_torch(cls, tensor: Any) -> Self:
        """Wrap a torch tensor; bfloat16 and half are widened."""
        return cls.from_tinkex(ours.TensorData.from_torch(tensor))

    @classmethod
    def from_torch_sparse(cls, tensor: Any, pad_value: int = 0) -> Self:
        """Wrap a tensor; one of two dimensions becomes sparse, without the entries that equal ``pad_value``, where
        that is smaller."""
        dense = cls.from_torch(tensor)
        array = dense._array
        if array.ndim != 2:
            return dense
        listed = array != pad_value
        counts = listed.sum(axis=1)
        if len(array) + 1 + 2 * int(counts.sum()) >= array.size:
            return dense
        rows = [0, *np.cumsum(counts).tolist()]
        return cls(array[listed], dense.dtype, dense.shape, rows, np.nonzero(listed)[1].tolist())

    @classmethod
    def from_tinkex(cls, tensor: ours.TensorData) -> Self:
        """Wrap an array of this client."""
        return cls(
            tensor.data,
            tensor.dtype,
            None if tensor.shape is None else list(tensor.shape),
            _plain(tensor.sparse_crow_indices),
            _plain(tensor.sparse_col_indices),
        )

    def to_tinkex(self) -> ours.TensorData:
        """Return the array as this client has it, without a copy."""
        if self.sparse_crow_indices is None:
            return ours.TensorData.trusted(self._array, self.dtype, self._array.shape)
        return ours.TensorData(
            data=self._array,
            dtype=self.dtype,
            shape=tuple(self.shape or ()),
            sparse_crow_indices=self.sparse_crow_indices,
            sparse_col_indices=self.sparse_col_indices,
        )

    def to_numpy(self, pad_value: int = 0) -> "NDArray[Any]":
        """Return the dense array; unlisted entries of a sparse one are ``pad_value``."""
        if self.sparse_crow_indices is None:
            return self._array
        dense = np.full(self.shape or (), pad_value, dtype=self._array.dtype)
        rows = np.repeat(np.arange(len(self.sparse_crow_indices) - 1), np.diff(self.sparse_crow_indices))
        dense[rows, self.sparse_col_indices] = self._array
        return dense

    def to_torch(self, pad_value: int = 0) -> Any:
        """Return the dense torch tensor. Requires torch."""
        import torch

        return torch.from_numpy(self.to_numpy(pad_value))

    def tolist(self, pad_value: int = 0) -> list[Any]:
        """Return the dense values as lists nested by shape."""
        nested: list[Any] = self.to_numpy(pad_value).tolist()
        return nested

    @property
    def _array(self) -> "NDArray[Any]":
        array: NDArray[Any] = vars(self)["array"]
        return array


def _plain(indices: Any) -> list[int] | None:
    return None if indices is None else [int(index) for index in indices]
