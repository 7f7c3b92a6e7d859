"""The executor of an attempt: runs the job, derives its outcome, and records it."""

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial

from pydantic import JsonValue

from crucible.errors import BackendUnavailable, CrucibleError
from crucible.runtime.waits import observed
from nsai_work.clock import Clock
from nsai_work.concurrency.control import StopReason
from nsai_work.errors import LeaseLost, UnreadableJob, UnreadableJournal
from nsai_work.journal import Journal
from nsai_work.payloads import JobKind
from nsai_work.store.records import Claim, Outcome, OutcomeKind
from nsai_work.telemetry import job_events
from nsai_work.telemetry.job_events import JobEvent
from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.attempts.attempt import Attempt
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.handlers import JobContext, run_job
from nsai_work.worker.attempts.outcome import outcome_of_error
from nsai_work.worker.attempts.span_record import traced
from nsai_work.worker.attempts.waits import AttemptWaits
from nsai_work.worker.declines import is_lacking_backend, is_lacking_for_job
from nsai_work.worker.supervisor import supervise
from nsai_work.worker.worker_store import WorkerStore

log = get_logger(__name__)

# the time that a training run has to reach its next step border, where it stops by itself
BORDER_GRACE_S = 10.0
# the time between two attempts to record an outcome, each of which waits for the store itself
RECORD_AGAIN_S = 0.5
# a failure of one job must not delay the others of its backend for long
MAX_BACK_OFF_S = 5.0
CLAIM_LINE_DELAY_S = 0.2
"""The time after which the claim of a first attempt is logged: of one that ends sooner, the end is logged alone."""


@dataclass(frozen=True, slots=True)
class Executor:
    """Executes attempts, with the settings and resources that all attempts of a worker share.

    ``decline`` is called, before the job is queued again, with the claim of a job that this worker cannot run.
    Without it such jobs fail.
    """

    store: WorkerStore
    backends: BackendPool
    clock: Clock
    make_journal: Callable[[Claim], Journal]
    shutdown_grace_s: float
    credit_poll_s: float
    decline: Callable[[Claim], None] | None = None
    jitter: Callable[[], float] = field(default=random.random)

    async def execute(self, attempt: Attempt) -> Outcome:
        """Run the job and record its outcome. Raises CancelledError alone."""
        claimed_at = self.clock.monotonic()
        queued = self._queued(attempt)
        logging_claim = _report_claim(attempt, queued)
        try:
            outcome = await self._run(attempt)
            recorded = await self._record(attempt, outcome)
        finally:
            logging_claim.cancel()
        seconds = {**queued, "ran_s": round(self.clock.monotonic() - claimed_at, 3)}
        name = f"job.{outcome.kind}" if recorded else "job.abandoned"
        job_events.emit(_event(attempt, name, seconds, outcome))
        return outcome

    def _queued(self, attempt: Attempt) -> dict[str, float]:
        """The time that the job was queued, in seconds, by this machine's clock: the store's may differ."""
        queued_at = attempt.claim.job.queued_at
        if queued_at is None:
            return {}
        return {"queued_s": round(max((self.clock.now() - queued_at).total_seconds(), 0.0), 3)}

    async def _run(self, attempt: Attempt) -> Outcome:
        timer = self._start_timer(attempt)
        waits = AttemptWaits(partial(self.store.set_wait, attempt.claim), self.clock)
        try:
            with observed(waits):
                async with traced(attempt.claim, self.store.record_span):
                    context = JobContext(
                        self.backends, self.store.files, self.make_journal(attempt.claim), self.clock
                    )
                    result = await supervise(run_job(attempt, context), attempt.control, self._grace(attempt))
                    if attempt.claim.job.kind == JobKind.TRAINING_STEP:
                        used = await self.store.goodput(attempt.job_id)
                        result = {**result, "goodput": used.as_json()}
                    return Outcome.succeeded(result)
        except Exception as error:
            declines = self.decline is not None and await self._is_lacking(attempt.claim, error)
            return self._outcome_of_error(attempt, error, declines=declines)
        finally:
            await waits.close()
            if timer is not None:
                timer.cancel()

    def _start_timer(self, attempt: Attempt) -> asyncio.TimerHandle | None:
        """Start the timer that stops the job at its time limit or deadline, whichever is first."""
        job, remaining_s = attempt.claim.job, attempt.claim.remaining_s
        limits: list[float] = []
        if job.resources.timeout_ms is not None:
            limits.append(job.resources.timeout_ms / 1000)
        if remaining_s is not None:
            # measured by the database's clock: this machine's may be wrong
            limits.append(remaining_s)
        if not limits:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(max(min(limits), 0.0), attempt.control.stop, StopReason.TIMEOUT)

    def _grace(self, attempt: Attempt) -> dict[StopReason, float]:
        """Return the time that the job has to stop by itself. Only training has step borders."""
        if attempt.claim.job.kind != JobKind.TRAINING_STEP:
            return {StopReason.SHUTDOWN: self.shutdown_grace_s}
        return {
            StopReason.CANCEL: BORDER_GRACE_S,
            StopReason.TIMEOUT: BORDER_GRACE_S,
            StopReason.SHUTDOWN: self.shutdown_grace_s,
        }

    def _outcome_of_error(self, attempt: Attempt, error: Exception, *, declines: bool) -> Outcome:
        claim = attempt.claim
        if not isinstance(error, CrucibleError):
            log.error("job.unexpected_error", job_id=claim.job_id, fence=claim.fence, exc_info=error)
        outcome = outcome_of_error(
            error,
            policy=claim.job.retry_policy,
            attempt=claim.attempt,
            uncounted=claim.fence - claim.attempt,
            jitter=self.jitter,
            credit_poll_ms=int(self.credit_poll_s * 1000),
            declines=declines,
        )
        if self.decline is not None and outcome.kind is OutcomeKind.DECLINED:
            self.decline(claim)
        # a command's own service may be unavailable too, which says nothing about the backend of the command
        own = isinstance(error, BackendUnavailable) and error.backend in (None, claim.backend)
        if own and outcome.kind is OutcomeKind.RETRIED:
            self.backends.back_off(claim.backend, min(outcome.delay_s, MAX_BACK_OFF_S))
        return outcome

    async def _is_lacking(self, claim: Claim, error: Exception) -> bool:
        """Check whether this worker lacks what the job needs, and another may have it."""
        if isinstance(error, UnreadableJob | UnreadableJournal):
            # during an upgrade, what this version cannot read is another's; otherwise it is damaged
            try:
                return await self.store.is_mixed()
            except CrucibleError:
                return True
        no_backend = claim.backend in self.backends.declined() and is_lacking_backend(error)
        return no_backend or is_lacking_for_job(error)

    async def _record(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Write the outcome to the store. Returns False if the lease is lost, or if the store will never take it:
        the lease then expires, and another worker takes the job over.

        A store that is away, or full, is waited for: giving up would have another worker do the work again that
        has just been done. The fence decides whether the outcome still counts.
        """
        attempt.recording = True
        lost = outcome.kind is OutcomeKind.LOST or attempt.control.reason is StopReason.LEASE_LOST
        # if no other worker has claimed it yet, requeue it now, without counting a worker's crash
        written = Outcome.released("the lease expired") if lost else outcome
        write = self.store.finish if written.kind.status.ended else self.store.requeue
        waiting = False
        while True:
            try:
                await write(attempt.claim, written)
            except LeaseLost:
                return False
            except CrucibleError as error:
                if not waiting:
                    name = "job.not_yet_recorded" if error.retryable else "job.not_recorded"
                    log.warning(name, job_id=attempt.job_id, outcome=str(outcome.kind), error=error.code)
                if not error.retryable:
                    return False
                waiting = True
                await asyncio.sleep(RECORD_AGAIN_S)
            else:
                return not lost


def _report_claim(attempt: Attempt, queued: Mapping[str, float]) -> asyncio.TimerHandle:
    """Call the hooks with the claim at once, and log it: a first attempt after a while, unless it ends sooner. The
    line of its end has the same, and there are many."""
    event = _event(attempt, "job.claimed", queued)
    job_events.call_hooks(event)
    delay_s = CLAIM_LINE_DELAY_S if attempt.claim.fence == 1 else 0
    return asyncio.get_running_loop().call_later(delay_s, job_events.log_job_event, event)


def _event(attempt: Attempt, name: str, seconds: Mapping[str, float], outcome: Outcome | None = None) -> JobEvent:
    claim = attempt.claim
    details: dict[str, JsonValue] = {**seconds}
    if outcome is not None and outcome.reason:
        details["reason"] = outcome.reason
    if outcome is not None and outcome.failure is not None:
        details["code"] = outcome.failure.code
    return JobEvent(name, claim.job_id, str(claim.job.kind), claim.backend, claim.fence, claim.attempt, details)
