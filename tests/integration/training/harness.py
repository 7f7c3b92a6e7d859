"""Runs drivers against the in-memory service, kills them at a chosen point, and checks the outcome."""

import asyncio
import json
from collections.abc import Callable, Coroutine, Iterable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from crucible.backend import TrainingBackend
from crucible.token_sampler import TokenSampler
from crucible.training import LiveRun, Pending
from nsai_work.clock import SystemClock
from nsai_work.concurrency.control import Control
from nsai_work.job import Job
from nsai_work.journal import Journal
from nsai_work.payloads import TrainingStep
from nsai_work.training.driver import train
from tests.integration.training.journal_in_memory import MemoryStore
from tests.integration.training.service import Service, ServiceBackend

T = TypeVar("T")
STEPS = 7


class Killed(BaseException):
    """The process dies here."""


@dataclass
class Reaper:
    """Kills a driver at its k-th contact with the world outside, or once something is so; after that nothing gets
    out any more."""

    at: int | None = None
    when: Callable[[], bool] = lambda: False
    contacts: int = 0
    dead: bool = False

    def cross(self) -> None:
        """One contact."""
        self.contacts += 1
        if self.contacts == self.at or self.when():
            self.dead = True
        if self.dead:
            raise Killed


class MortalJournal:
    """A journal whose owner may die before or after each write."""

    def __init__(self, journal: Journal, reaper: Reaper) -> None:
        self._journal = journal
        self._reaper = reaper

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._journal, name)

        async def mortal(*args: Any, **kwargs: Any) -> Any:
            return await _mortal(method(*args, **kwargs), self._reaper)

        return mortal


class MortalRun:
    """A live run whose driver may die before or after each call."""

    def __init__(self, run: LiveRun, reaper: Reaper) -> None:
        self._run = run
        self._reaper = reaper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._run, name)

    async def send(self, prepared: Any) -> Any:
        return MortalPending(await _mortal(self._run.send(prepared), self._reaper), self._reaper)

    async def sampler(self, path: str, **arguments: Any) -> Any:
        opened = await _mortal(self._run.sampler(path, **arguments), self._reaper)
        return MortalSampler(opened, self._reaper)

    async def health(self) -> Any:
        return await _mortal(self._run.health(), self._reaper)

    async def close(self, *, unload: bool = False) -> None:
        # the dead close nothing
        await self._run.close(unload=unload and not self._reaper.dead)


@dataclass
class MortalPending:
    """A result that may never be read."""

    pending: Pending[Any]
    reaper: Reaper

    async def result(self) -> Any:
        return await _mortal(self.pending.result(), self.reaper)


class MortalSampler:
    """A sampler whose user may die before or after each request."""

    def __init__(self, sampler: TokenSampler, reaper: Reaper) -> None:
        self._sampler = sampler
        self._reaper = reaper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sampler, name)

    async def sample(self, *args: Any, **kwargs: Any) -> Any:
        return await _mortal(self._sampler.sample(*args, **kwargs), self._reaper)


class MortalBackend:
    """A backend whose user may die before or after each call."""

    def __init__(self, backend: TrainingBackend, reaper: Reaper) -> None:
        self._backend = backend
        self._reaper = reaper

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)

    async def start(self, spec: Any) -> Any:
        return MortalRun(await _mortal(self._backend.start(spec), self._reaper), self._reaper)

    async def attach(self, ref: Any, *, next_seq_id: int) -> Any:
        attached = await _mortal(self._backend.attach(ref, next_seq_id=next_seq_id), self._reaper)
        return MortalRun(attached, self._reaper)

    async def recover(self, request: Any, *, observe: Any) -> Any:
        recovered = await _mortal(self._backend.recover(request, observe=observe), self._reaper)
        return replace(recovered, run=MortalRun(recovered.run, self._reaper))

    async def check_checkpoint(self, path: str, spec: Any) -> Any:
        return await _mortal(self._backend.check_checkpoint(path, spec), self._reaper)

    async def delete_checkpoint(self, path: str) -> None:
        await _mortal(self._backend.delete_checkpoint(path), self._reaper)


async def _mortal(work: Coroutine[Any, Any, T], reaper: Reaper) -> T:
    try:
        reaper.cross()
    except Killed:
        work.close()
        raise
    result = await work
    reaper.cross()
    return result


@dataclass
class Scene:
    """One job, its journal, and the service it trains on."""

    payload: TrainingStep
    service: Service = field(default_factory=Service)
    journal: MemoryStore = field(default_factory=MemoryStore)
    new_backend: Callable[[], TrainingBackend] | None = None
    """A real backend in place of the service in memory."""
    slept: list[float] = field(default_factory=list)
    job: Job = field(init=False)

    def __post_init__(self) -> None:
        self.job = Job(id="01234567-89ab-7def-8123-456789abcdef", kind="training_step", payload=self.payload)

    async def sleep(self, seconds: float) -> None:
        """Time that costs nothing but turns of the loop: whatever is ready happens meanwhile."""
        self.slept.append(seconds)
        for _ in range(200):
            await asyncio.sleep(0)

    async def drive(
        self, *, kill_at: int | None = None, control: Control | None = None, reaper: Reaper | None = None
    ) -> dict[str, Any]:
        """One owner's attempt, in a process of its own."""
        reaper = reaper or Reaper(kill_at)
        backend = self.new_backend() if self.new_backend else ServiceBackend(self.service)
        async with backend:
            return await train(
                job=self.job,
                payload=self.payload,
                backend=cast(TrainingBackend, MortalBackend(backend, reaper)),
                journal=MortalJournal(self.claim(), reaper),
                control=control or Control(),
                clock=SystemClock(),
                sleep=self.sleep,
                allow=["tests"],
                jitter=lambda: 0.0,
            )

    def claim(self) -> Journal:
        """The journal, for a new owner."""
        return self.journal.claim()

    async def survive(self, kills: Iterable[int]) -> dict[str, Any]:
        """Drive on, with one death at each of these contacts, until the job is done."""
        for kill_at in kills:
            with suppress(Killed):
                return await self.drive(kill_at=kill_at)
        return await self.drive()

    @property
    def losses(self) -> list[float]:
        """The loss of every step that counts."""
        return [step.loss for step in self.journal.steps]

    def newest_applied(self) -> list[int]:
        """The steps that the newest remote run applied."""
        return self.service.newest.applied

    def check_complete(self, steps: int = STEPS) -> None:
        """The steps have no gap, and no remote run applied a step twice or out of order."""
        assert [step.step for step in self.journal.steps] == list(range(1, steps + 1))
        for run in self.service.runs.values():
            if run.applied:
                first = run.applied[0]
                assert run.applied == list(range(first, first + len(run.applied))), "applied twice or out of order"
        for remote in self.journal.runs:
            applied = self.service.runs[remote.ref.run_id].applied
            assert not applied or applied[0] == remote.from_step + 1


DISTANCES = [3, pytest.param(1, marks=pytest.mark.long)]
"""The distances between the points at which runs are killed, one run for each. Not 2: an act has a point before it
and one after it, and one of the two would never be tried."""


def write_data(folder: Path, examples: int = 10) -> Path:
    """Training data that differs from line to line."""
    path = folder / "data.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {number} times {number}?"},
                {"role": "assistant", "content": f"It is {number * number}" + "." * number},
            ]
        }
        for number in range(1, examples + 1)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def payload_of(folder: Path, **fields: Any) -> TrainingStep:
    """A small training job."""
    settings: dict[str, Any] = {
        "base_model": "tiny",
        "data": {"path": str(write_data(folder))},
        "batch_size": 4,
        "max_steps": STEPS,
        "optimizer": {"learning_rate": 0.05},
        "checkpoint_policy": {"save_every": 2, "keep_last": 2},
        "recovery": {"enabled": True, "backoff_ms": 1000, "poll_interval_ms": 10},
    }
    return TrainingStep.model_validate(settings | fields)
