"""The SDK's ``TrainingClient``."""

from backends.tinkex.compat.training_client import TrainingClient as TrainingClient
