"""The parts of the interface of backends that jobs need: training, and commands."""

from crucible.backend import Backend, CommandBackend, TrainingBackend
from crucible.errors import Unsupported


def training_backend(backend: Backend) -> TrainingBackend:
    """Return a backend as one that trains. Raises Unsupported."""
    if not isinstance(backend, TrainingBackend):
        raise no_training(backend.name)
    return backend


def no_training(backend: str) -> Unsupported:
    """Return the error for a backend that trains nothing."""
    return Unsupported(f"backend: {backend!r} does not support training", backend=backend)


def command_backend(backend: Backend) -> CommandBackend:
    """Return a backend as one that runs commands. Raises Unsupported."""
    if not isinstance(backend, CommandBackend):
        raise no_commands(backend.name)
    return backend


def no_commands(backend: str) -> Unsupported:
    """Return the error for a backend that runs no commands."""
    return Unsupported(f"backend: {backend!r} does not support commands", backend=backend)
