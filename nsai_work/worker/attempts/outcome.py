"""The outcome of an attempt that raised an error, as a pure function. No other module decides it.

====================  =====================================================================
raised                outcome
====================  =====================================================================
LeaseLost             lost: another owner has the job
HandOver              released: requeued at once, the attempt does not count
StoreUnavailable      the same, unless the store is still unavailable; also StoreFull
OutOfCredit           released: requeued to wait for credit, the attempt does not count
CapacityError         released: requeued to wait for capacity, the attempt does not count
Canceled              canceled
JobTimeout            timeout
a lack of the worker  declined: requeued at once for another worker, the attempt does not count
other CrucibleError   retried or failed, by the retry policy
any other exception   failed as internal; the worker's log has the traceback
====================  =====================================================================
"""

from collections.abc import Callable
from typing import Final

from crucible.errors import Canceled, CapacityError, CrucibleError, ErrorCategory, Failure, OutOfCredit
from nsai_work.errors import HandOver, JobTimeout, LeaseLost, StoreFull, StoreUnavailable
from nsai_work.policies import RetryPolicy
from nsai_work.store.records import Outcome, OutcomeKind
from nsai_work.telemetry.goodput import SHUT_DOWN

MAX_CAPACITY_DELAY_MS: Final = 15_000
"""The longest delay after which a service at its limit is tried again, unless it names a longer one."""


def outcome_of_error(
    error: Exception,
    *,
    policy: RetryPolicy,
    attempt: int,
    jitter: Callable[[], float],
    credit_poll_ms: int,
    declines: bool = False,
    uncounted: int = 0,
) -> Outcome:
    """Return the outcome of an attempt that raised ``error``. ``attempt`` is its number, from 1. With ``declines``,
    the error shows that this worker lacks what the job needs. ``uncounted`` is the number of earlier claims that
    were not counted as attempts, such as those that met a service at its limit."""
    match error:
        case LeaseLost():
            return Outcome(OutcomeKind.LOST, reason="lease lost")
        case HandOver():
            return Outcome.released(SHUT_DOWN)
        case StoreUnavailable() | StoreFull():
            return Outcome.released(f"the worker's store failed: {error.code}")
        case OutOfCredit():
            delay_ms = error.retry_after_ms or credit_poll_ms
            return Outcome.released("out of credit", delay_s=delay_ms / 1000, failure=error.failure())
        case CapacityError():
            # the service's limit, not the job's fault: no attempt is used
            delay_ms = min(policy.delay_ms(1 + max(uncounted, 0), jitter), MAX_CAPACITY_DELAY_MS)
            delay_ms = max(error.retry_after_ms or 0, delay_ms)
            reason = f"the service is at its limit: {error.message}"
            return Outcome.released(reason, delay_s=delay_ms / 1000, failure=error.failure())
        case Canceled():
            return Outcome.canceled(error.failure())
        case JobTimeout():
            return Outcome.timeout(error.failure())
        case CrucibleError() if declines:
            return Outcome.declined(error.failure())
        case CrucibleError():
            return _by_policy(error.failure(), policy, attempt, jitter)
        case _:
            return Outcome.failed(internal_failure(error))


def internal_failure(error: BaseException) -> Failure:
    """Return an unexpected exception as a failure: with its type only, since its text may contain secrets."""
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
