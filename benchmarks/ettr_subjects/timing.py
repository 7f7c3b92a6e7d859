"""Runs a subject to its end, disturbing it on the way, and times that."""

import time
from dataclasses import dataclass
from typing import Protocol

from backends.tinkex_dev.server import DevProcess

POLL_S = 0.02
DEADLINE_S = 1_800.0


@dataclass(frozen=True)
class Result:
    """A step that a run has recorded, at a time by ``time.time``."""

    step: int
    at: float


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

    def results(self) -> list[Result]:
        """All steps that the run has recorded, the repeated ones too, in order."""

    def losses(self) -> list[float]:
        """The loss of each step, after the end."""

    def close(self) -> None:
        """End all processes."""


class Disturbance(Protocol):
    """Something that disturbs a run while it goes on."""

    def disturb(self, server: DevProcess, subject: Subject) -> float | None:
        """Disturb the run if it is time to. Returns when that was done, by ``time.time``."""


class Kills:
    """Kills of the owner, each after a time of owning the run."""

    def __init__(self, number: int, after_s: float) -> None:
        self._left = number
        self._after_s = after_s

    def disturb(self, server: DevProcess, subject: Subject) -> float | None:
        """Kill the owner if it has owned the run for long enough."""
        since = subject.owned_since() if self._left else None
        if since is None or time.time() - since < self._after_s:
            return None
        self._left -= 1
        moment = time.time()
        subject.kill_owner()
        return moment


class Corruptions:
    """Corruptions of the remote run, each as the results reach a step for the first time."""

    def __init__(self, mode: str, steps: list[int]) -> None:
        self._mode = mode
        self._steps = steps

    def disturb(self, server: DevProcess, subject: Subject) -> float | None:
        """Corrupt the run if it has reached the next step."""
        if not self._steps or max((result.step for result in subject.results()), default=0) < self._steps[0]:
            return None
        self._steps = self._steps[1:]
        moment = time.time()
        server.fault(kind="corrupt", mode=self._mode)
        return moment


@dataclass(frozen=True)
class Timing:
    """The time of a run, and the times of its disturbances. ``applied`` counts the optimizer steps that the server
    applied."""

    wall_s: float
    disturbed_at: list[float]
    results: list[Result]
    applied: int
    losses: list[float]

    @property
    def lost(self) -> int:
        """The steps that had been recorded, and were made again."""
        return len(self.results) - len({result.step for result in self.results})

    @property
    def recoveries_s(self) -> list[float]:
        """The times from the last result before a disturbance to the first after it."""
        found = []
        for moment in self.disturbed_at:
            before = max((result.at for result in self.results if result.at <= moment), default=moment)
            after = min((result.at for result in self.results if result.at > moment), default=None)
            found += [] if after is None else [after - before]
        return found


def run_to_end(server: DevProcess, subject: Subject, disturbance: Disturbance | None = None) -> Timing:
    """Run a subject to its end. The wall time begins with the first result."""
    subject.start()
    deadline = time.monotonic() + DEADLINE_S
    disturbed_at: list[float] = []
    while not subject.has_ended():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{type(subject).__name__} did not end in {DEADLINE_S:.0f} s")
        moment = None if disturbance is None else disturbance.disturb(server, subject)
        if moment is not None:
            disturbed_at.append(moment)
        time.sleep(POLL_S)
    results = subject.results()
    return Timing(
        wall_s=results[-1].at - results[0].at,
        disturbed_at=disturbed_at,
        results=results,
        applied=len(server.log(kind="optim_step")),
        losses=subject.losses(),
    )
