"""The outcome of each error, row by row of the module's table."""

import pytest

from crucible.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    Canceled,
    CapacityError,
    CredentialMissing,
    InvalidRequest,
    OutOfCredit,
    PluginError,
    RunCorrupted,
)
from nsai_work.errors import DataChanged, HandOver, JobTimeout, LeaseLost, StoreFull, StoreUnavailable
from nsai_work.lifecycle import JobStatus
from nsai_work.policies import RetryPolicy
from nsai_work.store.records import Outcome, OutcomeKind
from nsai_work.worker.attempts.outcome import outcome_of_error

POLICY = RetryPolicy(max_attempts=3, initial_delay_ms=1000, jitter=False)


def _outcome(error: Exception, attempt: int = 1) -> Outcome:
    return outcome_of_error(error, policy=POLICY, attempt=attempt, jitter=lambda: 0.5, credit_poll_ms=60_000)


@pytest.mark.parametrize(
    ("error", "kind", "delay_ms"),
    [
        (LeaseLost("x"), OutcomeKind.LOST, 0),
        (HandOver("x"), OutcomeKind.RELEASED, 0),
        (StoreUnavailable("x"), OutcomeKind.RELEASED, 0),
        (StoreFull("x"), OutcomeKind.RELEASED, 0),
        (OutOfCredit("x"), OutcomeKind.RELEASED, 60_000),
        (OutOfCredit("x", retry_after_ms=5_000), OutcomeKind.RELEASED, 5_000),
        (CapacityError("x"), OutcomeKind.RELEASED, 1_000),
        (CapacityError("x", retry_after_ms=9_000), OutcomeKind.RELEASED, 9_000),
        (Canceled("x"), OutcomeKind.CANCELED, 0),
        (JobTimeout("x"), OutcomeKind.TIMEOUT, 0),
        (BackendUnavailable("x"), OutcomeKind.RETRIED, 1_000),
        (BackendUnavailable("x", retry_after_ms=7_000), OutcomeKind.RETRIED, 7_000),
        (RunCorrupted("x"), OutcomeKind.RETRIED, 1_000),
        (AuthenticationFailed("x"), OutcomeKind.FAILED, 0),
        (PluginError("x"), OutcomeKind.FAILED, 0),
        (InvalidRequest("x"), OutcomeKind.FAILED, 0),
        (DataChanged("x"), OutcomeKind.FAILED, 0),
        (ZeroDivisionError("secret"), OutcomeKind.FAILED, 0),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else str(value),
)
def test_each_error_has_its_outcome(error: Exception, kind: OutcomeKind, delay_ms: int) -> None:
    """As the module's docstring says."""
    outcome = _outcome(error)

    assert (outcome.kind, outcome.delay_s * 1000) == (kind, delay_ms)


def test_a_service_at_its_limit_is_tried_less_and_less_often() -> None:
    """The job goes back into the queue each time, so the delay grows with the claims; a longer one is respected."""

    def delays(error: Exception) -> list[float]:
        return [
            outcome_of_error(
                error, policy=POLICY, attempt=1, jitter=lambda: 0.5, credit_poll_ms=1, uncounted=uncounted
            ).delay_s
            for uncounted in range(7)
        ]

    assert delays(CapacityError("x")) == [1, 2, 4, 8, 15, 15, 15]
    assert delays(CapacityError("x", retry_after_ms=9_000)) == [9, 9, 9, 9, 15, 15, 15]


def test_the_last_attempt_is_not_retried() -> None:
    """``max_attempts`` includes the first attempt."""
    assert _outcome(BackendUnavailable("x"), attempt=2).kind is OutcomeKind.RETRIED
    assert _outcome(BackendUnavailable("x"), attempt=3).kind is OutcomeKind.FAILED


def test_the_text_of_an_unexpected_exception_is_not_recorded() -> None:
    """It may contain a credential; the type suffices to find it in the log."""
    failure = _outcome(ValueError("Bearer abc")).failure

    assert failure is not None
    assert failure.code == "internal"
    assert "ValueError" in failure.message
    assert "abc" not in failure.message


def test_what_this_worker_lacks_is_declined_whatever_the_policy() -> None:
    """But for the errors that say what the job's end is."""
    lacking = {"policy": RetryPolicy(max_attempts=1), "attempt": 1, "jitter": lambda: 0.5, "credit_poll_ms": 1}

    outcome = outcome_of_error(CredentialMissing("no key"), declines=True, **lacking)

    assert (outcome.kind, outcome.kind.status, outcome.delay_s) == (OutcomeKind.DECLINED, JobStatus.QUEUED, 0)
    assert outcome.reason == "declined: no key"
    assert outcome_of_error(CredentialMissing("no key"), **lacking).kind is OutcomeKind.FAILED
    assert outcome_of_error(Canceled("x"), declines=True, **lacking).kind is OutcomeKind.CANCELED
