"""The lineage of a job's remote runs, and the proof by repeated steps."""

import pytest

from crucible.training import RunRef
from nsai_work.journal import (
    CheckpointRecord,
    CheckpointStatus,
    JournalSnapshot,
    RemoteRun,
    ResumeMode,
    StepRecord,
)
from nsai_work.payloads import TrainingStep
from nsai_work.training.checkpoints import expired_checkpoints
from nsai_work.training.restart.lineage import (
    EndReason,
    candidates,
    is_current,
    skipped_steps,
    times_poisoned,
    worst_resume,
)
from nsai_work.training.restart.proof import Proof, comparable, prove


def run(
    generation: int, from_step: int = 0, resume: ResumeMode = ResumeMode.UNVERIFIED, end: str | None = None
) -> RemoteRun:
    """Build a remote run."""
    ref = RunRef(backend="b", run_id=f"run-{generation}")
    return RemoteRun(generation=generation, ref=ref, from_step=from_step, resume=resume, end_reason=end)


def step(number: int, loss: float, generation: int = 1, **metrics: float) -> StepRecord:
    """Build a step."""
    return StepRecord(
        step=number, epoch=0, loss=loss, tokens=1, learning_rate=0.1, generation=generation, metrics=metrics
    )


def saved(
    number: int, generation: int = 1, status: CheckpointStatus = CheckpointStatus.COMMITTED
) -> CheckpointRecord:
    """Build a checkpoint."""
    name = f"g{generation}-s{number}"
    return CheckpointRecord(name=name, step=number, generation=generation, status=status, path=f"x://r/{name}")


@pytest.mark.parametrize("message", ["loss is nan", "", "a: b at step 3: c", "two\nlines"])
def test_an_end_reason_is_read_back(message: str) -> None:
    """Any error message survives the round trip."""
    reason = EndReason("run_corrupted", 51, message)
    assert EndReason.parse(str(reason)) == reason


def test_a_reason_of_another_form_is_ignored() -> None:
    """It parses to None and counts as no corruption."""
    assert EndReason.parse("went away") is None
    assert times_poisoned([run(1, end="went away")], 1) == 0


def test_steps_that_poison_twice_are_left_out_if_the_policy_says_so() -> None:
    """The second corruption at a step marks its batch; a run that is gone does not count."""
    ends = [("run_corrupted", 5), ("run_corrupted", 9), ("run_gone", 5), ("run_corrupted", 5), ("run_gone", 9)]
    runs = [run(place, end=str(EndReason(code, at, "x"))) for place, (code, at) in enumerate(ends, start=1)]
    assert times_poisoned(runs, 5) == 2
    assert skipped_steps(runs, skip_batch=True) == {5}
    assert skipped_steps(runs, skip_batch=False) == frozenset()


def test_only_current_checkpoints_are_candidates() -> None:
    """A later run restarted from step 4, so the earlier run's later checkpoints are superseded."""
    runs = [run(1), run(2, from_step=4)]
    assert [is_current(saved(number), runs, last_step=6) for number in (2, 4, 6)] == [True, True, False]
    assert is_current(saved(6, generation=2), runs, last_step=6)
    assert not is_current(saved(7, generation=2), runs, last_step=6)
    snapshot = JournalSnapshot(
        runs=runs,
        steps=[step(number, 1.0) for number in range(1, 7)],
        superseded={},
        open_intents=(),
        checkpoints=[saved(2), saved(4), saved(6), saved(6, 2), saved(5, 2, CheckpointStatus.LOST)],
    )
    assert [row.name for row in candidates(snapshot)] == ["g2-s6", "g1-s4", "g1-s2"]


@pytest.mark.parametrize(
    ("modes", "worst"),
    [
        (["fresh"], "fresh"),
        (["warm"], "warm"),
        (["fresh", "exact"], "exact"),
        (["exact", "unverified", "warm"], "unverified"),
        (["cold", "exact"], "cold"),
        (["fresh", "restarted", "exact"], "restarted"),
        (["restarted", "unverified"], "unverified"),
    ],
)
def test_a_job_is_as_good_as_its_weakest_resume(modes: list[str], worst: str) -> None:
    """The weakest resume mode wins."""
    runs = [run(place, resume=ResumeMode(mode)) for place, mode in enumerate(modes, start=1)]
    assert worst_resume(runs) == worst


@pytest.mark.parametrize(
    ("policy", "recovery", "gone"),
    [
        ({"keep_last": 1, "save_best": False}, {}, [4, 2]),
        ({"keep_last": 1}, {}, [4]),
        ({"keep_last": 2, "save_best": False}, {}, [2]),
        ({"keep_last": 1, "save_best": False}, {"checkpoint_strategy": "best_loss"}, [4]),
        ({"keep_last": 1, "save_best": False}, {"checkpoint_strategy": "x://r/g1-s4"}, [2]),
        ({"strategy": "all", "keep_last": 1}, {}, []),
        ({"strategy": "epoch", "keep_last": 1, "save_best": False}, {}, [2]),
        ({"strategy": "best", "keep_last": 2}, {}, []),
        ({"strategy": "best", "keep_last": 1}, {}, [4]),
        ({"strategy": "last", "keep_last": 3, "save_best": False}, {}, [4, 2]),
    ],
    ids=[
        "newest",
        "and best",
        "two",
        "a recovery wants the best",
        "a recovery wants that one",
        "all",
        "epoch",
        "two best",
        "best and newest",
        "last",
    ],
)
def test_what_a_recovery_would_choose_is_never_let_go(
    policy: dict[str, object], recovery: dict[str, object], gone: list[int]
) -> None:
    """The checkpoint policy decides, but keeps the checkpoint that a recovery would restore."""
    payload = TrainingStep.model_validate(
        {"base_model": "m", "data": {"path": "x"}, "checkpoint_policy": policy, "recovery": recovery}
    )
    losses = {2: 0.5, 4: 0.8, 6: 0.9}
    rows = [saved(number).model_copy(update={"metric": loss}) for number, loss in losses.items()]
    rows.append(saved(8, status=CheckpointStatus.PENDING))
    assert [row.step for row in expired_checkpoints(payload, rows, steps_per_epoch=4)] == gone


RESTORED = run(2, from_step=4)
BEFORE = {5: step(5, 1.5), 6: step(6, 1.25)}


@pytest.mark.parametrize(
    ("after", "tolerance", "proof"),
    [
        ({}, 0.0, None),
        ({5: 1.5}, 0.0, None),
        ({5: 1.5, 6: 1.25}, 0.0, Proof(ResumeMode.EXACT, 6, 1.25, 1.25)),
        ({5: 1.4}, 0.0, Proof(ResumeMode.COLD, 5, 1.5, 1.4, weights_differ=True)),
        ({5: 1.5, 6: 1.3}, 0.0, Proof(ResumeMode.COLD, 6, 1.25, 1.3)),
        ({5: 1.5000001, 6: 1.25}, 1e-6, Proof(ResumeMode.EXACT, 6, 1.25, 1.25)),
        ({5: 1.5000001}, 0.0, Proof(ResumeMode.COLD, 5, 1.5, 1.5000001, weights_differ=True)),
        ({5: 1.5, 6: 1.2505}, 1e-3, Proof(ResumeMode.COLD, 6, 1.25, 1.2505)),
        ({5: 1.5001, 6: 1.2505}, 1e-3, Proof(ResumeMode.EXACT, 6, 1.25, 1.2505)),
        ({5: 1.5, 6: 1.250001}, 1e-3, Proof(ResumeMode.EXACT, 6, 1.25, 1.250001)),
    ],
    ids=[
        "nothing yet",
        "one step is no proof",
        "exact",
        "no weights",
        "no optimizer",
        "tolerated",
        "not tolerated",
        "no optimizer, on a server that repeats itself exactly",
        "a server that does not",
        "other company in a batch",
    ],
)
def test_repeated_steps_prove_a_resume(after: dict[int, float], tolerance: float, proof: Proof | None) -> None:
    """The first repeated step shows the weights, the second the optimizer state."""
    repeated = {number: step(number, loss, 2) for number, loss in after.items()}
    assert prove(RESTORED, repeated, BEFORE, tolerance) == proof


def test_a_step_of_a_poisoned_run_proves_only_by_being_equal() -> None:
    """The last results of a flagged run may be wrong: an equal loss is proof, a different loss is not."""
    same = {number: step(number, BEFORE[number].loss, 2) for number in BEFORE}
    assert prove(RESTORED, same, BEFORE, 0.0, frozenset({1})) == Proof(ResumeMode.EXACT, 6, 1.25, 1.25)
    other = {**same, 6: step(6, 1.3, 2)}
    assert prove(RESTORED, other, BEFORE, 0.0, frozenset({1})) == Proof(ResumeMode.UNVERIFIED, 6, 1.25, 1.3)


def test_without_superseded_steps_nothing_is_proven() -> None:
    """A restore from the newest step repeats no step."""
    assert prove(RESTORED, {5: step(5, 1.5, 2), 6: step(6, 1.25, 2)}, {5: BEFORE[5]}, 0.0) is None


def test_steps_of_a_cold_run_are_no_measure() -> None:
    """Unless the checkpoint is that run's own; a skipped step never is."""
    runs = [run(1, resume=ResumeMode.FRESH), run(2, resume=ResumeMode.COLD)]
    superseded = {5: step(5, 1.0, 1), 6: step(6, 1.0, 2), 7: step(7, 1.0, 1, skipped=1.0)}
    assert set(comparable(superseded, runs, 1)) == {5}
    assert set(comparable(superseded, runs, 2)) == {5, 6}
