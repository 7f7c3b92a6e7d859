"""From how an attempt ended to what the store is told. Pure, and the only place that decides it.

===================  =============================================================
raised               told
===================  =============================================================
nothing              succeeded, with the result
LeaseLost            nothing: another owner has the job
HandOver             back to the queue at once; the attempt is not used up
StoreUnavailable     the same, when the store can be told at all
OutOfCredit          back to the queue, waiting for credit; not used up
CapacityError        back to the queue, waiting for a place; not used up
Canceled             canceled
JobTimeout           timeout
any other of ours    the retry policy decides: back to the queue, or failed
anything else        failed as internal; the traceback stays in the worker's log
===================  =============================================================
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from pydantic import JsonValue

from crucible.errors import Canceled, CapacityError, CrucibleError, ErrorCategory, Failure, OutOfCredit
from nsai_work.errors import HandOver, JobTimeout, LeaseLost, StoreFull, StoreUnavailable
from nsai_work.policies import RetryPolicy


class Verdict(StrEnum):
    """What becomes of the job."""

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMED_OUT = "timeout"
    RETRY = "retry"
    WAIT = "wait"
    HAND_OVER = "hand_over"
    ABANDON = "abandon"


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended. ``delay_ms`` and ``reason`` matter when the job goes back to the queue."""

    verdict: Verdict
    result: Mapping[str, JsonValue] | None = None
    failure: Failure | None = None
    delay_ms: int = 0
    reason: str = ""


def succeeded(result: Mapping[str, JsonValue]) -> Outcome:
    """The attempt did what it was to do."""
    return Outcome(Verdict.SUCCEEDED, result=result)


def judge(
    error: Exception, *, policy: RetryPolicy, attempt: int, jitter: Callable[[], float], credit_poll_ms: int
) -> Outcome:
    """What an error means for the job. ``attempt`` counts from 1 and includes this one."""
    match error:
        case LeaseLost():
            return Outcome(Verdict.ABANDON, reason="lease lost")
        case HandOver():
            return Outcome(Verdict.HAND_OVER, reason="the worker was shut down")
        case StoreUnavailable() | StoreFull():
            return Outcome(Verdict.HAND_OVER, reason=f"the worker's store failed: {error.code}")
        case OutOfCredit():
            delay = error.retry_after_ms or credit_poll_ms
            return Outcome(Verdict.WAIT, failure=error.failure(), delay_ms=delay, reason="out of credit")
        case CapacityError():
            # the service's limit, not the job's fault: it waits like for any other place in a queue
            delay = max(error.retry_after_ms or 0, policy.delay_ms(1, jitter))
            reason = f"the service is at its limit: {error.message}"
            return Outcome(Verdict.WAIT, failure=error.failure(), delay_ms=delay, reason=reason)
        case Canceled():
            return Outcome(Verdict.CANCELED, failure=error.failure())
        case JobTimeout():
            return Outcome(Verdict.TIMED_OUT, failure=error.failure())
        case CrucibleError():
            return _by_policy(error.failure(), policy, attempt, jitter)
        case _:
            return Outcome(Verdict.FAILED, failure=internal_failure(error))


def internal_failure(error: BaseException) -> Failure:
    """An unexpected exception as data. Its text may hold anything, so only its type is told."""
    return Failure(
        category=ErrorCategory.INTERNAL,
        code="internal",
        message=f"unexpected {type(error).__name__}; the worker's log has the traceback",
    )


def _by_policy(failure: Failure, policy: RetryPolicy, attempt: int, jitter: Callable[[], float]) -> Outcome:
    decision = policy.decide(failure, attempt, jitter)
    if decision.retry:
        return Outcome(Verdict.RETRY, failure=failure, delay_ms=decision.delay_ms, reason=decision.reason)
    return Outcome(Verdict.FAILED, failure=failure, reason=decision.reason)
