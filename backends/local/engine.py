"""The training engine: the part in which local backends differ."""

from abc import ABC, abstractmethod

from crucible.training import RunSpec, StepRequest, StepResult


class Engine(ABC):
    """A model, its adapter and its optimizer. Methods are never called concurrently."""

    spec: RunSpec

    @property
    def corrupted(self) -> bool:
        """Whether the run is unusable."""
        return False

    @abstractmethod
    def check(self, request: StepRequest) -> None:
        """Validate a step without changing anything. Raises InvalidRequest naming the field."""

    @abstractmethod
    def train(self, request: StepRequest) -> StepResult:
        """Make one optimizer step. Raises RunCorrupted when the loss is NaN or infinite."""

    @abstractmethod
    def digest(self) -> str:
        """A hash of the trained weights' bits: equal digests mean equal weights."""
