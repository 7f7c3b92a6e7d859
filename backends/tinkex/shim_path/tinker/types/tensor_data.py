"""The SDK's ``TensorData``."""

from backends.tinkex.compat.tensor_data import TensorData as TensorData
