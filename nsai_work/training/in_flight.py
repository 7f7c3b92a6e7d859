"""An operation in flight at the service."""

import time
from dataclasses import dataclass, field

from crucible.training import ForwardResult, Pending, Prepared, SaveResult, StepResult
from nsai_work.training.objectives import ObjectiveResult
from nsai_work.training.operations import Operation
from nsai_work.training.sources.batches import StepBatch


@dataclass(slots=True)
class InFlight:
    """An operation whose result is not recorded yet. A skipped step is never ``prepared``; a prepared operation
    that is not ``pending`` has to be sent (again). ``batch`` is that of a forward pass; ``objective`` the loss that
    the driver computed for a step. ``began_ns`` is when it was prepared, by the wall clock, for its span."""

    operation: Operation
    prepared: Prepared[StepResult] | Prepared[SaveResult] | Prepared[ForwardResult] | None = None
    pending: Pending[StepResult] | Pending[SaveResult] | Pending[ForwardResult] | None = None
    batch: StepBatch | None = None
    objective: ObjectiveResult | None = None
    began_ns: int = field(default_factory=time.time_ns)

    @property
    def unsent(self) -> bool:
        """The operation has to be sent before its result can be awaited."""
        return self.prepared is not None and self.pending is None
