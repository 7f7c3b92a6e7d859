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

from collections.abc import Callable

from crucible.errors import Canceled, CapacityError, CrucibleError, ErrorCategory, Failure, OutOfCredit
from nsai_work.errors import HandOver, JobTimeout, LeaseLost, StoreFull, StoreUnavailable
from nsai_work.policies import RetryPolicy
from nsai_work.store.records import Outcome, OutcomeKind


def judge(
    error: Exception, *, policy: RetryPolicy, attempt: int, jitter: Callable[[], float], credit_poll_ms: int
) -> Outcome:
    """The outcome of an attempt that raised ``error``. ``attempt`` counts from 1 and includes this one."""
    match error:
        case LeaseLost():
            return Outcome(OutcomeKind.LOST, reason="lease lost")
        case HandOver():
            return Outcome.released("the worker was shut down")
        case StoreUnavailable() | StoreFull():
            return Outcome.released(f"the worker's store failed: {error.code}")
        case OutOfCredit():
            delay_ms = error.retry_after_ms or credit_poll_ms
            return Outcome.released("out of credit", delay_s=delay_ms / 1000, failure=error.failure())
        case CapacityError():
            # the service's limit, not the job's fault: it waits like for any other place in a queue
            delay_ms = max(error.retry_after_ms or 0, policy.delay_ms(1, jitter))
            reason = f"the service is at its limit: {error.message}"
            return Outcome.released(reason, delay_s=delay_ms / 1000, failure=error.failure())
        case Canceled():
            return Outcome.canceled(error.failure())
        case JobTimeout():
            return Outcome.timeout(error.failure())
        case CrucibleError():
            return _by_policy(error.failure(), policy, attempt, jitter)
        case _:
            return Outcome.failed(internal_failure(error))


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
        return Outcome.retried(decision.reason, delay_s=decision.delay_ms / 1000, failure=failure)
    return Outcome.failed(failure, decision.reason)
