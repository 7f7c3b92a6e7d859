"""What trains: the part that differs from one backend of this kind to the next."""

from abc import ABC, abstractmethod

from crucible.training import RunSpec, StepRequest, StepResult


class Engine(ABC):
    """A model, its adapter and its optimizer. Methods are called one at a time, from one thread at a time."""

    spec: RunSpec

    @property
    def corrupted(self) -> bool:
        """Whether the run must not be used any more."""
        return False

    @abstractmethod
    def check(self, request: StepRequest) -> None:
        """Refuse a step that cannot be made; nothing is changed. Raises InvalidRequest naming the field."""

    @abstractmethod
    def train(self, request: StepRequest) -> StepResult:
        """Make one optimizer step. Raises RunCorrupted when the loss is NaN or infinite."""

    @abstractmethod
    def digest(self) -> str:
        """A hash of the trained weights' bits: equal digests mean equal weights."""
