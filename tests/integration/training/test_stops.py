"""Stop requests over a whole run: shutdown, timeout, cancellation, a lost lease."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from crucible.capabilities import Capabilities
from crucible.errors import (
    Canceled,
)
from nsai_work.concurrency.control import Control, StopReason
from nsai_work.errors import HandOver, JobTimeout, LeaseLost
from nsai_work.payloads import TrainingStep
from tests.integration.training.harness import STEPS, Scene, payload_of
from tests.integration.training.hooks import once
from tests.integration.training.journal_in_memory import JournalInMemory
from tests.integration.training.service import ServiceBackend

pytestmark = pytest.mark.anyio


STOPS = {
    StopReason.SHUTDOWN: HandOver,
    StopReason.TIMEOUT: JobTimeout,
    StopReason.LEASE_LOST: LeaseLost,
}


@pytest.mark.parametrize("reason", STOPS)
async def test_a_stop_takes_effect_within_a_step(tmp_path: Path, alone: Scene, reason: StopReason) -> None:
    """Nothing new is sent, and the next owner goes on warm with the same losses."""
    scene = Scene(payload_of(tmp_path))
    control = Control()
    scene.service.hook = once("result", 3, lambda details: control.stop(reason))

    with pytest.raises(STOPS[reason]):
        await scene.drive(control=control)

    assert len(scene.journal.steps) <= 4
    assert max(scene.service.newest.applied) <= 4
    if reason is not StopReason.LEASE_LOST:
        assert not (await scene.journal.claim().load()).open_intents, "what was under way was recorded"
    scene.service.hook = lambda event, details: None
    await scene.drive()
    assert scene.losses == alone.losses
    assert scene.service.newest.applied == list(range(1, STEPS + 1))


async def test_a_cancellation_ends_the_run_and_frees_it(tmp_path: Path) -> None:
    """The remote run is unloaded; nothing more is recorded."""
    scene = Scene(payload_of(tmp_path))
    control = Control()
    scene.service.hook = once("result", 3, lambda details: control.stop(StopReason.CANCEL))
    with pytest.raises(Canceled):
        await scene.drive(control=control)
    assert not scene.service.newest.alive


async def test_a_zombie_changes_nothing(tmp_path: Path, alone: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """An owner that was asleep while another took over writes nothing, and what it sends late is harmless."""
    scene = Scene(payload_of(tmp_path))
    asleep, wake = asyncio.Event(), asyncio.Event()
    real = JournalInMemory.intend

    async def sleepy(self: Any, generation: int, intents: Any) -> None:
        await real(self, generation, intents)
        if len(scene.journal.steps) == 3 and not asleep.is_set():
            asleep.set()
            await wake.wait()

    monkeypatch.setattr(JournalInMemory, "intend", sleepy)
    zombie = asyncio.create_task(scene.drive())
    await asyncio.wait_for(asleep.wait(), 10)
    result = await scene.drive()
    wake.set()
    with pytest.raises(LeaseLost):
        await zombie
    assert result["resume"] == "warm"
    assert scene.losses == alone.losses
    assert scene.service.newest.applied == list(range(1, STEPS + 1))


async def test_examples_that_are_cut_are_counted_and_told_once(tmp_path: Path) -> None:
    """In an event, and in the result; also if another owner goes on."""
    scene = Scene(payload_of(tmp_path, max_tokens=26))
    control = Control()
    scene.service.hook = once("result", 3, lambda details: control.stop(StopReason.SHUTDOWN))
    with pytest.raises(HandOver):
        await scene.drive(control=control)
    scene.service.hook = lambda event, details: None
    result = await scene.drive()

    (told,) = scene.journal.events_named("training.truncated")
    assert told == {"rows": 10, "of": 10, "lines": [*range(1, 11)], "max_tokens": 26}
    assert result["truncated_rows"] == 10
    assert (await Scene(payload_of(tmp_path)).drive())["truncated_rows"] == 0


class _ShortContext(ServiceBackend):
    """The service, with a model of a short context."""

    async def capabilities(self) -> Capabilities:
        known = await super().capabilities()
        return known.model_copy(update={"context_lengths": {"tiny": 26}})


async def test_examples_are_cut_at_the_context_of_the_model(tmp_path: Path) -> None:
    """If it is less than ``max_tokens``; the event names it."""
    scene = Scene(payload_of(tmp_path, max_tokens=100_000))
    scene.new_backend = lambda: _ShortContext(scene.service)
    result = await scene.drive()

    (told,) = scene.journal.events_named("training.truncated")
    assert told == {"rows": 10, "of": 10, "lines": [*range(1, 11)], "max_tokens": 26}
    assert result["truncated_rows"] == 10
    assert scene.losses == (await _losses_of(payload_of(tmp_path, max_tokens=26)))


async def _losses_of(payload: TrainingStep) -> list[float]:
    scene = Scene(payload)
    await scene.drive()
    return scene.losses
