"""A job's events added up: what a progress bar shows. Pure; the same events give the same state."""

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Protocol

from pydantic import JsonValue

WINDOW = 20
"""Steps over which the speed is measured: long enough to be steady, short enough to follow a change."""


class JobEvent(Protocol):
    """What the store keeps of an event, as far as it is needed here."""

    @property
    def seq(self) -> int: ...
    @property
    def at(self) -> datetime: ...
    @property
    def name(self) -> str: ...
    @property
    def data(self) -> Mapping[str, JsonValue]: ...


@dataclass(slots=True)
class RunProgress:
    """Where a job is. Feed it every event in order with ``see``."""

    status: str = "pending"
    done: int = 0
    total: int | None = None
    loss: float | None = None
    first_loss: float | None = None
    checkpoints: int = 0
    recoveries: int = 0
    resume: str | None = None
    _speed: deque[tuple[datetime, int]] = field(default_factory=lambda: deque(maxlen=WINDOW))

    def see(self, event: JobEvent) -> None:
        """Take the next event in."""
        if event.name.startswith("job."):
            self.status = event.name.removeprefix("job.")
        elif event.name == "step":
            self._see_step(event)
        elif event.name == "checkpoint.committed":
            self.checkpoints += 1
        elif event.name.endswith(".recovery.completed"):
            self.recoveries += 1

    @property
    def tokens_per_s(self) -> float | None:
        """Training tokens a second over the last steps; None before two steps."""
        if len(self._speed) < 2:
            return None
        seconds = (self._speed[-1][0] - self._speed[0][0]).total_seconds()
        tokens = sum(count for _, count in list(self._speed)[1:])
        return tokens / seconds if seconds > 0 else None

    def _see_step(self, event: JobEvent) -> None:
        step, loss, tokens = (event.data.get(name) for name in ("step", "loss", "tokens"))
        if isinstance(step, int):
            self.done = step
        if isinstance(loss, int | float):
            self.loss = float(loss)
            self.first_loss = self.loss if self.first_loss is None else self.first_loss
        self._speed.append((event.at, tokens if isinstance(tokens, int) else 0))
