"""Failures over a whole run: each kind of fault leads to its action."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CapacityError,
    InvalidRequest,
    OutOfCredit,
    RecoveryExhausted,
    RequestTimeout,
    RunCorrupted,
    RunGone,
)
from tests.integration.training.harness import STEPS, Scene, payload_of
from tests.integration.training.hooks import flag, kill_run, once, spoil, throw
from tests.integration.training.service import Service

pytestmark = pytest.mark.anyio


FAULTS: dict[str, tuple[str, Callable[[dict[str, Any]], None], int]] = {
    "timeout": ("result", throw(RequestTimeout("slow")), 0),
    "unavailable while sending": ("send", throw(BackendUnavailable("reset")), 0),
    "unavailable after sending": ("sent", throw(BackendUnavailable("reset")), 0),
    "over capacity": ("send", throw(CapacityError("429", retry_after_ms=7000)), 0),
    "answer lost": ("result", throw(AnswerLost("410")), 0),
    "failed for an unknown reason": ("result", throw(BackendError("category server")), 1),
    "gone": ("send", kill_run, 1),
    "gone by error": ("result", throw(RunGone("404")), 1),
    "flagged": ("sent", flag, 1),
    "refused as corrupted": ("result", throw(RunCorrupted("poisoned")), 1),
    "not a number": ("sent", spoil, 1),
}


@pytest.mark.parametrize("replays", [True, False], ids=["replays", "repeats"])
@pytest.mark.parametrize("fault", FAULTS)
async def test_a_fault_changes_nothing(tmp_path: Path, alone: Scene, fault: str, replays: bool) -> None:
    """Whatever fails at step 5, the losses are those of the undisturbed run, and nothing was applied twice."""
    event, act, recoveries = FAULTS[fault]
    scene = Scene(payload_of(tmp_path), Service(replays=replays))
    scene.service.hook = once(event, 5, act)

    result = await scene.drive()

    scene.check_complete()
    assert scene.losses == alone.losses
    if replays:
        assert result["recoveries"] == recoveries
    assert result["resume"] in ("fresh", "exact", "unverified")
    [incident] = scene.journal.events_named("training.incident")
    assert incident["step"] in (4, 5)


async def test_a_wait_that_the_service_asks_for_is_kept(tmp_path: Path) -> None:
    """retry_after_ms is the least that is waited."""
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("send", 3, throw(CapacityError("429", retry_after_ms=7000)))
    await scene.drive()
    assert scene.slept == [7.0]


async def test_the_flag_is_seen_while_nothing_else_fails(tmp_path: Path, alone: Scene) -> None:
    """A run marked corrupted is left at once, also when its results still look well."""
    scene = Scene(payload_of(tmp_path))
    reached = asyncio.Event()
    scene.service.hook = once("result", 4, lambda details: reached.set())
    attempt = asyncio.create_task(scene.drive())
    await asyncio.wait_for(reached.wait(), 10)
    scene.service.newest.corrupted = True

    result = await asyncio.wait_for(attempt, 10)

    assert result["recoveries"] == 1
    assert scene.losses == alone.losses


async def test_the_flag_is_seen_during_a_wait_before_a_repeat(
    tmp_path: Path, alone: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One failure follows another before the first is mended: both are."""
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("send", 4, throw(BackendUnavailable("away")))

    async def sleep(seconds: float) -> None:
        if len(scene.service.runs) == 1 and not scene.service.newest.corrupted:
            scene.service.newest.corrupted = True
            await asyncio.Event().wait()  # until the flag ends it

    monkeypatch.setattr(scene, "sleep", sleep)
    result = await asyncio.wait_for(scene.drive(), 10)
    assert result["recoveries"] == 1
    assert scene.losses == alone.losses


@pytest.mark.parametrize(("on_repeated", "ends"), [("stop", False), ("skip_batch", True)])
async def test_the_same_step_poisoned_again(tmp_path: Path, on_repeated: str, ends: bool) -> None:
    """The crash-loop breaker: stop and ask, or leave the batch out."""
    recovery = {"enabled": True, "on_repeated_corruption": on_repeated, "poll_interval_ms": 10}
    scene = Scene(payload_of(tmp_path, recovery=recovery))
    scene.service.hook = once("result", 5, throw(RunCorrupted("poisoned")), times=1000)
    if not ends:
        with pytest.raises(RecoveryExhausted, match="skip_batch"):
            await scene.drive()
        return

    result = await scene.drive()

    assert result["skipped_steps"] == [5]
    assert [step.step for step in scene.journal.steps] == list(range(1, STEPS + 1))
    assert scene.journal.steps[4].tokens == 0
    [event] = scene.journal.events_named("step.skipped")
    assert event["step"] == 5
    assert len(event["lines"]) == 4  # type: ignore[arg-type]


async def test_a_skip_survives_every_death(tmp_path: Path) -> None:
    """Whoever takes over leaves out the same step, and does not poison another run to learn it."""
    recovery = {"enabled": True, "on_repeated_corruption": "skip_batch", "poll_interval_ms": 10}
    for kill_at in range(1, 110, 4):
        scene = Scene(payload_of(tmp_path, recovery=recovery))
        scene.service.hook = once("result", 5, throw(RunCorrupted("poisoned")), times=1000)
        result = await scene.survive([kill_at, kill_at])
        assert result["skipped_steps"] == [5]
        assert [step.step for step in scene.journal.steps] == list(range(1, STEPS + 1))


async def test_recovery_gives_up_when_nothing_moves(tmp_path: Path) -> None:
    """max_attempts incidents without a new step are the end; the waits between them grow."""
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("send", 4, throw(RunGone("404")), times=1000)
    with pytest.raises(RecoveryExhausted, match="made no progress"):
        await scene.drive()
    assert scene.slept == [1.0, 2.0]
    told = scene.journal.events_named("training.incident")
    # the step that was under way when the first send failed was recorded, and the count began anew
    assert [(event["incidents"], event["action"]) for event in told[-4:]] == [
        (1, "restore"),
        (2, "restore"),
        (3, "restore"),
        (4, "fail"),
    ]
    assert {event["step"] for event in told[-4:]} == {4}


async def test_a_service_that_stays_away_is_left_to_the_queue(tmp_path: Path, alone: Scene) -> None:
    """The error goes up as it is, retryable; the next attempt takes the run over warm."""
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("send", 4, throw(BackendUnavailable("away")), times=5)
    with pytest.raises(BackendUnavailable):
        await scene.drive()

    result = await scene.drive()

    assert result["resume"] == "warm"
    assert scene.losses == alone.losses


@pytest.mark.parametrize("error", [OutOfCredit("402"), AuthenticationFailed("401"), InvalidRequest("bad")])
async def test_errors_that_recovery_cannot_mend_go_up(tmp_path: Path, error: Exception) -> None:
    """No recovery is tried for them, and the run can be taken over later."""
    scene = Scene(payload_of(tmp_path))
    scene.service.hook = once("send", 4, throw(error))
    with pytest.raises(type(error)):
        await scene.drive()
    assert len(scene.journal.runs) == 1

    result = await scene.drive()

    assert result["resume"] == "warm"


async def test_without_recovery_a_lost_run_fails_the_job(tmp_path: Path) -> None:
    """enabled: false means that the error is the answer."""
    scene = Scene(payload_of(tmp_path, recovery={"enabled": False}))
    scene.service.hook = once("send", 4, kill_run)
    with pytest.raises(RunGone):
        await scene.drive()
    assert len(scene.service.runs) == 1
