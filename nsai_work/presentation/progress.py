"""Progress of a job, computed from its events. Does no I/O; equal events give equal progress."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import JsonValue

from nsai_work.payloads import REWARD

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import EventRow

T = TypeVar("T", int, int | None)


@dataclass(slots=True)
class RunProgress:
    """Progress of a job. Pass every event to ``update``, in order.

    ``done`` and ``total`` count optimizer steps, or rows of a batch. A restore sets ``done`` back.
    """

    status: str = "pending"
    done: int = 0
    total: int | None = None
    loss: float | None = None
    reward: float | None = None
    tokens_per_s: float | None = None
    checkpoints: int = 0
    recoveries: int = 0
    failed_rows: int = 0

    def update(self, event: "EventRow") -> None:
        """Apply the next event."""
        if event.name.startswith("job."):
            self.status = event.name.removeprefix("job.")
        elif event.name == "step":
            self._update_step(event.data)
        elif event.name == "inference.progress":
            self.done = _int_or(event.data.get("done"), self.done)
            self.total = _int_or(event.data.get("total"), self.total)
            self.failed_rows = _int_or(event.data.get("failed"), self.failed_rows)
        elif event.name in ("resume.restored", "resume.restarted"):
            self.recoveries += 1
            self.done = _int_or(event.data.get("from_step"), self.done)
        elif event.name == "checkpoint.committed":
            self.checkpoints += 1

    def _update_step(self, data: Mapping[str, JsonValue]) -> None:
        self.done = _int_or(data.get("step"), self.done)
        self.total = _int_or(data.get("total_steps"), self.total)
        loss, speed = data.get("loss"), data.get("tokens_per_s")
        self.loss = float(loss) if isinstance(loss, int | float) else self.loss
        metrics = data.get("metrics")
        reward = metrics.get(REWARD) if isinstance(metrics, dict) else None
        self.reward = float(reward) if isinstance(reward, int | float) else self.reward
        self.tokens_per_s = float(speed) if isinstance(speed, int | float) else self.tokens_per_s


def requested_steps(job: "Job") -> int | None:
    """Return ``max_steps`` of a training job; None if its payload has none."""
    steps = job.payload.get("max_steps")
    return steps if isinstance(steps, int) else None


def _int_or(value: JsonValue, default: T) -> int | T:
    return value if isinstance(value, int) else default
