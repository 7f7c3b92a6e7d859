"""Runs a subject to its end, killing its owner on the way, and times what that costs."""

import time
from dataclasses import dataclass
from typing import Protocol

from backends.tinkex_dev.server import DevProcess

POLL_S = 0.02
DEADLINE_S = 1_800.0


class Subject(Protocol):
    """A training run that can be killed."""

    def start(self) -> None:
        """Start the run."""

    def owned_since(self) -> float | None:
        """When the process that trains began to, by ``time.time``; None while there is none."""

    def kill_owner(self) -> None:
        """SIGKILL the process that trains, and start another in its place."""

    def has_ended(self) -> bool:
        """Return whether the run is done. Raises if it failed."""

    def result_times(self) -> list[float]:
        """The times of all results that the run has recorded, by ``time.time``, in order."""

    def losses(self) -> list[float]:
        """The loss of each step, after the end."""

    def close(self) -> None:
        """End all processes."""


@dataclass(frozen=True)
class Killed:
    """A run under kills. ``applied`` counts the optimizer steps that the server applied."""

    wall_s: float
    kills: int
    recoveries_s: list[float]
    applied: int
    losses: list[float]


def run_under_kills(server: DevProcess, subject: Subject, *, kill_after_s: float | None) -> Killed:
    """Run a subject to its end. The wall time begins with the first result."""
    subject.start()
    deadline = time.monotonic() + DEADLINE_S
    kills: list[float] = []
    while not subject.has_ended():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{type(subject).__name__} did not end in {DEADLINE_S:.0f} s")
        since = subject.owned_since() if kill_after_s is not None else None
        if since is not None and kill_after_s is not None and time.time() - since >= kill_after_s:
            kills.append(time.time())
            subject.kill_owner()
        time.sleep(POLL_S)
    times = subject.result_times()
    recoveries = [_recovery(times, kill) for kill in kills]
    return Killed(
        wall_s=times[-1] - times[0],
        kills=len(kills),
        recoveries_s=[found for found in recoveries if found is not None],
        applied=len(server.log(kind="optim_step")),
        losses=subject.losses(),
    )


def _recovery(times: list[float], kill: float) -> float | None:
    """The time from the last result before a kill to the first after it; None if none came after it."""
    before = max((at for at in times if at <= kill), default=kill)
    after = min((at for at in times if at > kill), default=None)
    return None if after is None else after - before
