"""A job's events added up: what a progress bar shows. Pure; the same events give the same state."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from pydantic import JsonValue

if TYPE_CHECKING:
    from nsai_work.store import EventRow

T = TypeVar("T", int, int | None)


@dataclass(slots=True)
class RunProgress:
    """Where a job is. Feed it every event in order with ``see``.

    ``done`` and ``total`` count optimizer steps, or rows of a batch; after a resume ``done`` goes back.
    """

    status: str = "pending"
    done: int = 0
    total: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    checkpoints: int = 0
    recoveries: int = 0
    failed_rows: int = 0

    def see(self, event: "EventRow") -> None:
        """Take the next event in."""
        if event.name.startswith("job."):
            self.status = event.name.removeprefix("job.")
        elif event.name == "step":
            self._see_step(event.data)
        elif event.name == "inference.progress":
            self.done = _whole(event.data.get("done"), self.done)
            self.total = _whole(event.data.get("total"), self.total)
            self.failed_rows = _whole(event.data.get("failed"), self.failed_rows)
        elif event.name == "resume.restored":
            self.recoveries += 1
            self.done = _whole(event.data.get("from_step"), self.done)
        elif event.name == "checkpoint.committed":
            self.checkpoints += 1

    def _see_step(self, data: Mapping[str, JsonValue]) -> None:
        self.done = _whole(data.get("step"), self.done)
        self.total = _whole(data.get("total_steps"), self.total)
        loss, speed = data.get("loss"), data.get("tokens_per_s")
        self.loss = float(loss) if isinstance(loss, int | float) else self.loss
        self.tokens_per_s = float(speed) if isinstance(speed, int | float) else self.tokens_per_s


def _whole(value: JsonValue, otherwise: T) -> int | T:
    return value if isinstance(value, int) else otherwise
