"""What a failure means: each kind of fault, over a whole run."""

import asyncio
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    Canceled,
    CapacityError,
    InvalidRequest,
    OutOfCredit,
    RecoveryExhausted,
    RequestTimeout,
    RunCorrupted,
    RunGone,
)
from crucible.training import IntentKind, StepResult
from nsai_work.control import Control, StopReason
from nsai_work.errors import DataChanged, HandOver, JobTimeout, LeaseLost, ResumeUnproven
from nsai_work.journal import CheckpointStatus
from tests.integration.training.harness import STEPS, Killed, Reaper, Scene, payload_of
from tests.integration.training.journal_in_memory import JournalInMemory
from tests.integration.training.service import Service

pytestmark = pytest.mark.anyio

Hook = Callable[[str, dict[str, Any]], None]


def once(event: str, step: int, act: Callable[[dict[str, Any]], None], times: int = 1) -> Hook:
    """A hook that acts at an event of an operation of a step, the first so many times."""
    left = [times]

    def hook(seen: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        ours = intent is not None and intent.step == step and intent.kind is IntentKind.STEP
        if seen == event and left[0] and ours:
            left[0] -= 1
            act(details)

    return hook


def throw(error: Exception) -> Callable[[dict[str, Any]], None]:
    """Raise it."""

    def act(details: dict[str, Any]) -> None:
        raise error

    return act


def flag(details: dict[str, Any]) -> None:
    """The service marks the run corrupted."""
    details["run"].corrupted = True


def kill_run(details: dict[str, Any]) -> None:
    """The remote run is gone."""
    details["run"].alive = False


def spoil(details: dict[str, Any]) -> None:
    """The run's weights become NaN, and no flag says so."""
    model = details["run"].model
    model.weights = [math.nan for _ in model.weights]
    digest, outcome = details["run"].record[details["intent"].first_seq_id]
    if isinstance(outcome, StepResult):
        details["run"].record[details["intent"].first_seq_id] = (digest, StepResult(math.nan, 1, {}))
        raise RunCorrupted("the loss is nan")


@pytest.fixture
async def alone(tmp_path: Path) -> Scene:
    """The run that nothing happened to."""
    scene = Scene(payload_of(tmp_path))
    await scene.drive()
    return scene


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


@pytest.mark.parametrize("kind", ["flag", "error"])
async def test_what_a_poisoned_run_saved_is_never_committed(tmp_path: Path, kind: str) -> None:
    """The run is poisoned between a save and its check: the save stays uncommitted."""
    scene = Scene(payload_of(tmp_path))
    poisoned: list[str] = []

    def hook(event: str, details: dict[str, Any]) -> None:
        intent = details.get("intent")
        if event != "result" or intent.kind is not IntentKind.SAVE_STATE or intent.step != 4 or poisoned:
            return
        poisoned.append(intent.name)
        if kind == "error":
            raise RunCorrupted("poisoned")
        # after the result is out, and before the service is asked how the run is
        asyncio.get_running_loop().call_soon(flag, details)

    scene.service.hook = hook
    await scene.drive()
    assert scene.journal.checkpoints[poisoned[0]].status is CheckpointStatus.LOST
    scene.check_complete()


async def test_a_cold_optimizer_is_caught(tmp_path: Path, alone: Scene) -> None:
    """A service that restores the weights alone is found out by the second repeated step."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 3}), Service(restores_optimizer=False))
    scene.service.hook = once("result", 6, kill_run)

    result = await scene.drive()

    [event] = scene.journal.events_named("resume.cold")
    assert (event["step"], event["missing"]) == (5, "optimizer")
    assert result["resume"] == "cold"
    assert scene.losses[:4] == alone.losses[:4]
    assert scene.losses != alone.losses


async def test_a_cold_optimizer_stops_the_job_if_the_policy_says_so(tmp_path: Path) -> None:
    """on_cold_optimizer: stop."""
    recovery = {"enabled": True, "on_cold_optimizer": "stop", "poll_interval_ms": 10}
    scene = Scene(
        payload_of(tmp_path, checkpoint_policy={"save_every": 3}, recovery=recovery),
        Service(restores_optimizer=False),
    )
    scene.service.hook = once("result", 6, kill_run)
    with pytest.raises(ResumeUnproven, match="optimizer's state did not come back"):
        await scene.drive()


async def test_a_proven_resume_is_exact(tmp_path: Path) -> None:
    """Two steps ran again and were equal."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 3}))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    assert result["resume"] == "exact"
    [event] = scene.journal.events_named("resume.verified")
    assert event["step"] == 5
    again = [row.step for row in scene.journal.checkpoints.values() if row.generation == 2]
    assert again == [6, 7], "what it was restored from is not saved again"


async def test_what_cannot_be_made_again_is_not_sent_again(tmp_path: Path, alone: Scene) -> None:
    """The open intent's digest is not what this owner comes to: it restores instead of sending something else."""
    scene = Scene(payload_of(tmp_path))
    with pytest.raises(Killed):
        await scene.drive(reaper=Reaper(when=lambda: len(scene.journal.steps) == 4))
    for key in set(scene.journal.intents) - scene.journal.closed:
        scene.journal.intents[key] = scene.journal.intents[key].model_copy(update={"digest": "0" * 64})

    result = await scene.drive()

    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 2]
    assert "cannot be rebuilt" in str(result["lineage"][0]["end_reason"])


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


async def test_a_broken_checkpoint_is_passed_over(tmp_path: Path, alone: Scene) -> None:
    """The newest checkpoint cannot be used any more: the one before it is, and the broken one is marked lost."""
    scene = Scene(payload_of(tmp_path))

    def act(details: dict[str, Any]) -> None:
        for path, saved in scene.service.saved.items():
            saved.usable = not path.endswith("s000004")
        kill_run(details)

    scene.service.hook = once("result", 6, act)
    result = await scene.drive()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 2]
    lost = [row.name for row in scene.journal.checkpoints.values() if row.status is CheckpointStatus.LOST]
    assert "456789abcdef-g001-s000004" in lost


async def test_a_recovery_to_the_best_checkpoint_leaves_no_gap(tmp_path: Path) -> None:
    """Going back further than need be: what was saved after it does not count any more, and is let go."""
    recovery = {"enabled": True, "checkpoint_strategy": "best_loss", "poll_interval_ms": 10}
    diverging = {"optimizer": {"learning_rate": 1.0}, "checkpoint_policy": {"save_every": 1}}
    alone = Scene(payload_of(tmp_path, **diverging))
    await alone.drive()
    best = min(alone.journal.steps, key=lambda step: step.loss).step
    assert best == 5
    scene = Scene(payload_of(tmp_path, recovery=recovery, **diverging))
    scene.service.hook = once("result", 7, kill_run)

    result = await scene.drive()

    scene.check_complete()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, best]
    gone = [row for row in scene.journal.checkpoints.values() if row.note == "its steps were superseded"]
    assert gone
    assert all(row.status is CheckpointStatus.DELETED and row.generation == 1 for row in gone)


async def test_without_any_checkpoint_the_job_begins_again(tmp_path: Path, alone: Scene) -> None:
    """Its seed makes that exact."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"strategy": "last"}))
    scene.service.hook = once("result", 6, kill_run)
    result = await scene.drive()
    assert scene.losses == alone.losses
    assert [run["from_step"] for run in result["lineage"]] == [0, 0]


async def test_a_save_that_fails_its_check_is_lost_and_the_run_goes_on(tmp_path: Path, alone: Scene) -> None:
    """Only the final one is worth a recovery."""
    scene = Scene(payload_of(tmp_path))
    broken: list[str] = []

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "check" and details["path"].endswith(("g001-s000004", "g001-s000007")):
            scene.service.saved[details["path"]].usable = False
            broken.append(details["path"])

    scene.service.hook = hook
    result = await scene.drive()
    assert len(broken) == 2
    assert scene.losses == alone.losses
    assert result["recoveries"] == 1
    assert "g002" in str(result["checkpoint"])


async def test_retention_keeps_what_is_needed(tmp_path: Path) -> None:
    """keep_last 1: at no time more than the newest, the best and the one being made; deletions are recorded."""
    policy = {"save_every": 1, "keep_last": 1, "save_best": False}
    scene = Scene(payload_of(tmp_path, checkpoint_policy=policy))

    await scene.drive()

    kept = [row.step for row in scene.journal.checkpoints.values() if row.kept]
    assert kept == [STEPS]
    assert scene.service.most_saved <= 4
    assert len(scene.journal.events_named("checkpoint.deleted")) == STEPS - 1


async def test_a_promoted_checkpoint_stays(tmp_path: Path) -> None:
    """Also when it is promoted while the run goes on."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 1, "keep_last": 1, "save_best": False}))

    def act(details: dict[str, Any]) -> None:
        for name, row in scene.journal.checkpoints.items():
            if row.kept:
                scene.journal.checkpoints[name] = row.model_copy(update={"promoted": True})

    scene.service.hook = once("result", 4, act)
    await scene.drive()
    kept = [row.step for row in scene.journal.checkpoints.values() if row.kept]
    assert len(kept) == 2
    assert kept[0] < 4


async def test_a_deletion_that_fails_is_an_event_and_is_finished_later(tmp_path: Path) -> None:
    """It neither fails the job nor is forgotten."""
    scene = Scene(payload_of(tmp_path, checkpoint_policy={"save_every": 1, "keep_last": 1, "save_best": False}))
    failing = [True]

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "delete" and failing[0]:
            raise BackendUnavailable("away")
        if event == "send" and details["intent"].step == 5 and failing[0]:
            failing[0] = False
            raise OutOfCredit("402")

    scene.service.hook = hook
    with pytest.raises(OutOfCredit):
        await scene.drive()
    assert scene.journal.events_named("checkpoint.delete_failed")
    await scene.drive()
    left = [row.status for row in scene.journal.checkpoints.values() if row.status is not CheckpointStatus.DELETED]
    assert left == [CheckpointStatus.COMMITTED]


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


async def test_changed_data_is_refused(tmp_path: Path) -> None:
    """A resume over other data could not be exact."""
    payload = payload_of(tmp_path)
    data = payload.data.model_copy(update={"sha256": "0" * 64})
    scene = Scene(payload.model_copy(update={"data": data}))
    with pytest.raises(DataChanged, match="submit a new job"):
        await scene.drive()


async def test_a_finished_job_is_not_trained_again(tmp_path: Path) -> None:
    """The worker died after the last write: the result comes from the journal, and nothing is sent."""
    scene = Scene(payload_of(tmp_path))
    first = await scene.drive()
    contacts: list[str] = []
    scene.service.hook = lambda event, details: contacts.append(event)
    assert await scene.drive() == first
    assert contacts == []


@pytest.mark.parametrize("replays", [True, False, None], ids=["replays", "repeats", "unknown"])
async def test_a_save_stands_alone_where_the_order_is_not_known_to_be_kept(
    tmp_path: Path, replays: bool | None
) -> None:
    """Where a step might overtake a save, the two never are under way together; elsewhere they are."""
    scene = Scene(
        payload_of(tmp_path, pipeline_depth=3, checkpoint_policy={"save_every": 2}),
        service=Service(replays=replays),
    )
    under_way: dict[int, IntentKind] = {}
    together: set[frozenset[IntentKind]] = set()

    def hook(event: str, details: dict[str, Any]) -> None:
        if event == "send":
            under_way[details["intent"].last_seq_id] = details["intent"].kind
            together.add(frozenset(under_way.values()))
        elif event == "result":
            under_way.pop(details["intent"].last_seq_id, None)

    scene.service.hook = hook
    await scene.drive()

    scene.check_complete()
    mixed = [kinds for kinds in together if len(kinds) > 1]
    assert bool(mixed) == (replays is True)
