"""An operation in flight at the service."""

from dataclasses import dataclass

from crucible.training import Pending, Prepared, SaveResult, StepResult
from nsai_work.training.operations import Operation


@dataclass(slots=True)
class InFlight:
    """An operation whose result is not recorded yet. A skipped step is never ``prepared``; a prepared operation
    that is not ``pending`` has to be sent (again)."""

    operation: Operation
    prepared: Prepared[StepResult] | Prepared[SaveResult] | None = None
    pending: Pending[StepResult] | Pending[SaveResult] | None = None

    @property
    def unsent(self) -> bool:
        """Whether the operation has to be sent before its result can be awaited."""
        return self.prepared is not None and self.pending is None
