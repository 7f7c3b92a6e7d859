"""From an error to what the store is told: the table, row by row."""

import pytest

from crucible.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    Canceled,
    CapacityError,
    InvalidRequest,
    OutOfCredit,
    PluginError,
    RunCorrupted,
)
from nsai_work.errors import DataChanged, HandOver, JobTimeout, LeaseLost, StoreFull, StoreUnavailable
from nsai_work.policies import RetryPolicy
from nsai_work.worker.outcome import Outcome, Verdict, judge

POLICY = RetryPolicy(max_attempts=3, initial_delay_ms=1000, jitter=False)


def _judge(error: Exception, attempt: int = 1) -> Outcome:
    return judge(error, policy=POLICY, attempt=attempt, jitter=lambda: 0.5, credit_poll_ms=60_000)


@pytest.mark.parametrize(
    ("error", "verdict", "delay_ms"),
    [
        (LeaseLost("x"), Verdict.ABANDON, 0),
        (HandOver("x"), Verdict.HAND_OVER, 0),
        (StoreUnavailable("x"), Verdict.HAND_OVER, 0),
        (StoreFull("x"), Verdict.HAND_OVER, 0),
        (OutOfCredit("x"), Verdict.WAIT, 60_000),
        (OutOfCredit("x", retry_after_ms=5_000), Verdict.WAIT, 5_000),
        (CapacityError("x"), Verdict.WAIT, 1_000),
        (CapacityError("x", retry_after_ms=9_000), Verdict.WAIT, 9_000),
        (Canceled("x"), Verdict.CANCELED, 0),
        (JobTimeout("x"), Verdict.TIMED_OUT, 0),
        (BackendUnavailable("x"), Verdict.RETRY, 1_000),
        (BackendUnavailable("x", retry_after_ms=7_000), Verdict.RETRY, 7_000),
        (RunCorrupted("x"), Verdict.RETRY, 1_000),
        (AuthenticationFailed("x"), Verdict.FAILED, 0),
        (PluginError("x"), Verdict.FAILED, 0),
        (InvalidRequest("x"), Verdict.FAILED, 0),
        (DataChanged("x"), Verdict.FAILED, 0),
        (ZeroDivisionError("secret"), Verdict.FAILED, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_verdict(error: Exception, verdict: Verdict, delay_ms: int) -> None:
    """The docstring's table holds."""
    outcome = _judge(error)

    assert (outcome.verdict, outcome.delay_ms) == (verdict, delay_ms)


def test_the_last_attempt_is_not_retried() -> None:
    """max_attempts counts the first."""
    assert _judge(BackendUnavailable("x"), attempt=2).verdict is Verdict.RETRY
    assert _judge(BackendUnavailable("x"), attempt=3).verdict is Verdict.FAILED


def test_an_unexpected_exception_does_not_tell_its_text() -> None:
    """It may hold anything, a credential too; the type is enough to find it in the log."""
    failure = _judge(ValueError("Bearer abc")).failure

    assert failure is not None
    assert failure.code == "internal"
    assert "ValueError" in failure.message
    assert "abc" not in failure.message
