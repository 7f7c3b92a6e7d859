"""The training engine: the part in which local backends differ."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

from crucible.training import Datum, ForwardResult, RunSpec, StepRequest, StepResult


class Engine(ABC):
    """A model, its adapter and its optimizer. Methods are never called concurrently."""

    spec: RunSpec

    @property
    def corrupted(self) -> bool:
        """The run is unusable."""
        return False

    @abstractmethod
    def check(self, request: StepRequest) -> None:
        """Validate a step without changing anything. Raises InvalidRequest naming the field."""

    @abstractmethod
    def train(self, request: StepRequest) -> StepResult:
        """Make one optimizer step. Raises RunCorrupted when the loss is NaN or infinite."""

    @abstractmethod
    def check_forward(self, batch: Sequence[Datum]) -> None:
        """Validate the batch of a forward pass, as ``check`` does for a step."""

    @abstractmethod
    def forward(self, batch: Sequence[Datum]) -> ForwardResult:
        """Compute the log-probabilities of a batch. Changes nothing."""

    @abstractmethod
    def digest(self) -> str:
        """A hash of the trained weights' bits: equal digests mean equal weights."""
