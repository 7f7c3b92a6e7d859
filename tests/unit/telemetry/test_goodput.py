"""Where wall time goes, by the events of a job."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.telemetry.goodput import USES, TimedEvent, Use, account

START = datetime(2026, 1, 1, tzinfo=UTC)


def at(second: float, name: str, **data: Any) -> TimedEvent:
    """An event so many seconds after the start."""
    return TimedEvent(START + timedelta(seconds=second), name, data)


def spent(*events: TimedEvent, now: float) -> dict[str, float]:
    """The seconds by use, at a time."""
    found = account(events, START + timedelta(seconds=now))
    return {str(use): time.total_seconds() for use, time in found.by_use.items() if time}


BEGUN = (
    at(0, "job.submitted"),
    at(2, "job.running"),
    at(3, "run.began"),
    at(4, "resume.fresh"),
    at(6, "step", step=1),
)


def test_a_run_that_nothing_disturbs() -> None:
    """It is queued, starts, trains, evaluates, saves and ends."""
    assert spent(
        *BEGUN,
        at(7, "evaluation", step=1),
        at(7.5, "checkpoint.committed", step=1),
        at(9, "step", step=2),
        at(10, "job.succeeded"),
        now=99,
    ) == {
        "queued": 2, "starting": 2, "productive": 3.5, "evaluating": 1, "checkpointing": 0.5, "stopping": 1,
    }  # fmt: skip


def test_a_kill_costs_detection_and_a_takeover() -> None:
    """What the next owner records first was never recorded, so it is productive."""
    assert spent(
        *BEGUN,
        at(9, "job.queued", crashes=1, worker_id="w"),
        at(10, "job.running"),
        at(12, "resume.warm", step=1),
        at(13, "step", step=2),
        now=14,
    ) == {"queued": 3, "starting": 2, "productive": 4, "detecting": 3, "restoring": 2}  # fmt: skip


@pytest.mark.parametrize("first", ["tinkex.recovery.detected", "training.incident"])
def test_a_restore_repeats_steps(first: str) -> None:
    """The time to the discovery, to the restored run, and of the steps that had been recorded before."""
    assert spent(
        *BEGUN,
        at(8, "step", step=2),
        at(9, first),
        at(9.5, "training.incident"),
        at(11, "tinkex.recovery.completed"),
        at(12, "resume.restored"),
        at(13, "step", step=2),
        at(13, "resume.verified"),
        at(15, "step", step=3),
        now=15,
    ) == {"queued": 2, "starting": 2, "productive": 6, "detecting": 1, "restoring": 3, "replaying": 1}  # fmt: skip


def test_waits_pauses_and_retries_are_apart() -> None:
    """A service that is away, an account without credit, a failed job until it is retried, a hand-over."""
    assert spent(
        *BEGUN,
        at(7, "wait.started", reason="away"),
        at(9, "wait.ended"),
        at(10, "job.queued", failure={"code": "out_of_credit"}),
        at(15, "job.running"),
        at(16, "resume.warm"),
        at(17, "job.queued", failure=None, reason="the worker was shut down"),
        at(18, "job.running"),
        at(19, "resume.warm"),
        at(20, "job.failed"),
        at(30, "job.queued"),
        at(31, "job.running"),
        now=33,
    ) == {
        "queued": 4, "starting": 2, "productive": 3, "waiting": 2, "detecting": 1, "paused": 15, "restoring": 4,
        "stopping": 2,
    }  # fmt: skip


def test_an_outage_is_no_hand_over() -> None:
    """A service that is away is waited for, also across incidents; a lease that ran out meanwhile is a failure, as
    is a store that is away."""
    assert spent(
        *BEGUN,
        at(7, "wait.started", reason="away"),
        at(9, "training.incident", error="backend_unavailable"),
        at(9, "wait.started", reason="away"),
        at(13, "training.incident", error="run_gone"),
        at(14, "resume.restored"),
        at(17, "job.queued", reason="the lease expired", failure=None),
        at(18, "job.running"),
        at(19, "resume.warm"),
        at(21, "job.queued", reason="the worker's store failed: store_unavailable"),
        at(22, "job.running"),
        at(23, "resume.warm"),
        now=23,
    ) == {
        "queued": 4, "starting": 2, "productive": 3, "waiting": 6, "detecting": 5, "restoring": 3,
    }  # fmt: skip


@pytest.mark.parametrize("name", ["inference.progress", "command.progress", None])
def test_other_jobs_are_productive_until_they_end(name: str | None) -> None:
    """A batch of prompts or a command has no run to start."""
    work = [at(3, name)] if name else []
    assert spent(at(0, "job.submitted"), at(1, "job.running"), *work, at(5, "job.succeeded"), now=9)["queued"] == 1


def test_a_running_job_is_accounted_until_now() -> None:
    """By what it is at."""
    assert spent(now=5) == {}
    assert spent(*BEGUN[:1], now=5) == {"queued": 5}
    assert spent(*BEGUN[:2], now=5) == {"queued": 2, "starting": 3}
    assert spent(*BEGUN, now=8)["productive"] == 4
    assert spent(*BEGUN, at(7, "wait.started"), now=9)["waiting"] == 2
    assert spent(*BEGUN, at(7, "training.incident"), now=9)["restoring"] == 2


NAMES = st.sampled_from([
    "job.submitted", "job.running", "job.queued", "job.succeeded", "job.failed", "job.waiting", "step",
    "evaluation",
    "checkpoint.committed", "wait.started", "wait.ended", "training.incident", "tinkex.recovery.detected",
    "resume.fresh", "resume.warm", "resume.restored", "resume.verified", "inference.progress", "run.began", "other",
])  # fmt: skip
DATA = st.dictionaries(
    st.sampled_from(["step", "failure", "crashes", "reason"]),
    st.none() | st.integers(-3, 9) | st.text(max_size=2) | st.just({"code": "out_of_credit"}),
)


TIMES = st.datetimes(timezones=st.just(UTC))


@given(st.lists(st.builds(TimedEvent, TIMES, NAMES, DATA)), TIMES)
def test_it_adds_up_whatever_happened(events: list[TimedEvent], now: datetime) -> None:
    """Also with clocks that go back, and with data of any kind."""
    found = account(events, now)

    assert sum(found.by_use.values(), timedelta()) == found.wall
    assert found.wall >= timedelta()
    assert 0 <= found.ratio <= 1
    assert set(found.by_use) == set(USES) == set(Use)
    whole = {name: value for name, value in found.as_json().items() if isinstance(value, float)}
    parts = [value for name, value in whole.items() if name not in ("wall_s", "ratio")]
    assert sum(parts) == pytest.approx(whole["wall_s"])
