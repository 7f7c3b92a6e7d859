"""One attempt, from claim to record, as a pipe of small steps."""

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from pydantic import JsonValue

from crucible.errors import BackendUnavailable, CrucibleError
from nsai_work import telemetry
from nsai_work.clock import Clock
from nsai_work.control import StopReason
from nsai_work.errors import LeaseLost
from nsai_work.journal import Journal
from nsai_work.logs import get_logger
from nsai_work.payloads import TrainingStep
from nsai_work.store.records import Claim, Outcome, OutcomeKind
from nsai_work.telemetry import JobEvent
from nsai_work.worker.attempt import Attempt
from nsai_work.worker.backends import BackendPool
from nsai_work.worker.handlers import Tools, perform
from nsai_work.worker.outcome import judge
from nsai_work.worker.supervise import supervised
from nsai_work.worker.worker_store import WorkerStore

log = get_logger(__name__)

# a training run stops at its next step border by itself; this is how long it may take to get there
BORDER_GRACE_S = 10.0
# one job's bad luck must not keep the others waiting for long
MAX_BACK_OFF_S = 5.0


@dataclass(frozen=True, slots=True)
class Executor:
    """What all attempts of a worker share."""

    store: WorkerStore
    backends: BackendPool
    clock: Clock
    make_journal: Callable[[Claim], Journal]
    shutdown_grace_s: float
    credit_poll_s: float
    jitter: Callable[[], float] = field(default=random.random)

    async def execute(self, attempt: Attempt) -> Outcome:
        """Work the job and record what came of it. Raises nothing but CancelledError."""
        _announce(attempt, "job.claimed")
        outcome = await self._work(attempt)
        recorded = await self._record(attempt, outcome)
        _announce(attempt, f"job.{outcome.kind}" if recorded else "job.abandoned", outcome)
        return outcome

    async def _work(self, attempt: Attempt) -> Outcome:
        timer = self._start_timer(attempt)
        try:
            with telemetry.attempt_span(attempt.claim.job, attempt.claim.fence):
                tools = Tools(self.backends, self.make_journal(attempt.claim), self.clock)
                result = await supervised(perform(attempt, tools), attempt.control, self._grace(attempt))
                return Outcome.succeeded(result)
        except Exception as error:
            return self._judge(attempt, error)
        finally:
            if timer is not None:
                timer.cancel()

    def _start_timer(self, attempt: Attempt) -> asyncio.TimerHandle | None:
        """Tell the job to stop when its own time limit, or its deadline, has passed."""
        job = attempt.claim.job
        limits: list[float] = []
        if job.resources.timeout_ms is not None:
            limits.append(job.resources.timeout_ms / 1000)
        if job.constraints.deadline is not None:
            limits.append((job.constraints.deadline - self.clock.now()).total_seconds())
        if not limits:
            return None
        loop = asyncio.get_running_loop()
        return loop.call_later(max(min(limits), 0.0), attempt.control.stop, StopReason.TIMEOUT)

    def _grace(self, attempt: Attempt) -> dict[StopReason, float]:
        """How long the work may take to stop by itself. Only training has borders to stop at."""
        if not isinstance(attempt.claim.job.parsed_payload, TrainingStep):
            return {StopReason.SHUTDOWN: self.shutdown_grace_s}
        return {
            StopReason.CANCEL: BORDER_GRACE_S,
            StopReason.TIMEOUT: BORDER_GRACE_S,
            StopReason.SHUTDOWN: self.shutdown_grace_s,
        }

    def _judge(self, attempt: Attempt, error: Exception) -> Outcome:
        claim = attempt.claim
        if not isinstance(error, CrucibleError):
            log.error("job.unexpected_error", job_id=claim.job_id, fence=claim.fence, exc_info=error)
        outcome = judge(
            error,
            policy=claim.job.retry_policy,
            attempt=claim.attempt,
            jitter=self.jitter,
            credit_poll_ms=int(self.credit_poll_s * 1000),
        )
        if isinstance(error, BackendUnavailable) and outcome.kind is OutcomeKind.RETRIED:
            self.backends.back_off(claim.backend, min(outcome.delay_s, MAX_BACK_OFF_S))
        return outcome

    async def _record(self, attempt: Attempt, outcome: Outcome) -> bool:
        """Tell the store. False when the job is no longer ours, or the store cannot be told: then the lease runs
        out and another worker takes over."""
        attempt.recording = True
        lost = outcome.kind is OutcomeKind.LOST or attempt.control.reason is StopReason.LEASE_LOST
        try:
            if lost:
                # stopped in time, but perhaps nobody has taken it: then it need not wait, and it killed no worker
                await self.store.requeue(attempt.claim, Outcome.released("the lease ran out"))
            elif outcome.kind.status.ended:
                await self.store.finish(attempt.claim, outcome)
            else:
                await self.store.requeue(attempt.claim, outcome)
        except LeaseLost:
            return False
        except CrucibleError as error:
            log.warning("job.not_recorded", job_id=attempt.job_id, outcome=str(outcome.kind), error=error.code)
            return False
        return not lost


def _announce(attempt: Attempt, name: str, outcome: Outcome | None = None) -> None:
    claim = attempt.claim
    details: dict[str, JsonValue] = {}
    if outcome is not None and outcome.reason:
        details["reason"] = outcome.reason
    if outcome is not None and outcome.failure is not None:
        details["code"] = outcome.failure.code
    telemetry.emit(
        JobEvent(name, claim.job_id, str(claim.job.kind), claim.backend, claim.fence, claim.attempt, details)
    )
