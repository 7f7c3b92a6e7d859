"""The runtime of a worker: fetcher, lease keeper, maintainer and running attempts, all on one event loop.

``Runtime.run`` runs on the loop of its caller; RuntimeThread runs it in a thread with its own loop.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

from crucible.errors import CrucibleError
from nsai_work.clock import Clock, SystemClock
from nsai_work.concurrency.control import StopReason
from nsai_work.concurrency.io_threads import IoThreads
from nsai_work.dispatch.publisher import Publisher
from nsai_work.settings import Settings
from nsai_work.store import StandingClaim
from nsai_work.store.records import Claim, Selection, WakeUp
from nsai_work.telemetry.goodput import SHUT_DOWN
from nsai_work.telemetry.logs import bind_job, get_logger
from nsai_work.worker.attempts.attempt import Attempt
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.executor import Executor
from nsai_work.worker.declines import DeclinedJobs
from nsai_work.worker.fetcher import Fetcher
from nsai_work.worker.leases import LeaseKeeper
from nsai_work.worker.maintainer import Maintainer
from nsai_work.worker.probes.loop_lag import LoopLagMonitor
from nsai_work.worker.probes.watchdog import Watchdog
from nsai_work.worker.standby import Standby
from nsai_work.worker.worker_store import WorkerStore, open_worker_store

if TYPE_CHECKING:
    from nsai_work.alerts.deliverer import Deliverer

log = get_logger(__name__)

TASK_RESTART_S = 1.0
TIMER_SLACK_S = 0.005
HAND_OVER_SLACK_S = 15.0
CANCEL_TIMEOUT_S = 10.0
EXTRA_IO_THREADS = 32

BackgroundTask: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Runtime:
    """The components of a worker, wired together. Created and used on one event loop."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        concurrency: int,
        store: WorkerStore,
        publisher: Publisher | None,
        clock: Clock,
        io_threads: IoThreads,
        on_stalled: Callable[[str], None] | None = None,
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._concurrency = concurrency
        self.store = store
        self.io_threads = io_threads
        self._attempts: set[Attempt] = set()
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        # jobs selected by id must not wait for another worker: they fail with the reason
        by_id = selection.job_ids is not None
        self._declined_jobs = DeclinedJobs(clock)
        self.backends = BackendPool(
            clock, only_usable=not by_id, credentials=settings.credentials, on_usable=self._reselect
        )
        self.standby = Standby(store, self.backends, selection, interval_s=settings.poll_interval_s)
        self.leases = LeaseKeeper(
            store.heartbeat, store, clock, ttl_s=settings.lease_ttl_s, interval_s=settings.heartbeat_interval_s
        )
        self.fetcher = Fetcher(
            self._claim,
            self._start_attempt,
            store.fences,
            clock,
            concurrency=concurrency,
            poll_interval_s=settings.poll_interval_s,
            stand_by=self._stand_by,
        )
        self._failure: CrucibleError | None = None
        self.watchdog = Watchdog(settings.lease_ttl_s, self._running_jobs, on_stalled)
        self.lag = LoopLagMonitor(clock, lease_ttl_s=settings.lease_ttl_s)
        self._deliverer = _open_deliverer(settings, store, clock)
        self.maintainer = Maintainer(store, publisher, clock, self.fetcher.trigger, settings)
        self._executor = Executor(
            store,
            self.backends,
            clock,
            store.journal,
            shutdown_grace_s=settings.shutdown_grace_s,
            credit_poll_s=settings.credit_poll_s,
            decline=None if by_id else self._decline,
        )

    def wake(self, wake_up: WakeUp) -> None:
        """Handle a wake-up."""
        self.fetcher.wake(wake_up)

    def stop(self) -> None:
        """Stop claiming, hand running jobs over, then end. Idempotent."""
        self._stopping.set()

    def force_stop(self) -> None:
        """Stop without a grace period for running jobs."""
        self._stopping.set()
        self._forced.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Run jobs until ``stop`` is called. ``on_ready`` is called once jobs are claimed.

        Raises:
            StoreUnavailable: the store will never work again in this process.
        """
        self.watchdog.start()
        tasks: list[asyncio.Task[None]] = []
        try:
            await self._register()
            fetcher = asyncio.create_task(_run_with_restarts("fetcher", self.fetcher.run))
            background = (asyncio.create_task(_run_with_restarts(*named)) for named in self._background_tasks())
            tasks = [fetcher, *background]
            on_ready()
            await self._stopping.wait()
            await _cancel(fetcher)
            await self._hand_over()
        finally:
            await _cancel(*tasks)
            await self._cancel_remaining()
            if self._deliverer is not None:
                await self._deliverer.close()
            await self.backends.close()
            await self.store.close()
            self.watchdog.stop()
            log.info(
                "worker.stopped",
                worker_id=self.store.worker_id,
                loop_lag_p50_ms=self.lag.quantile_ms(0.5),
                loop_lag_p99_ms=self.lag.quantile_ms(0.99),
                loop_lag_max_ms=self.lag.quantile_ms(1.0),
            )
        if self._failure is not None:
            raise self._failure

    async def _register(self) -> None:
        available = await asyncio.to_thread(self.backends.available)
        await self.store.register(self._selection, available, self.backends.declined)
        if self._deliverer is not None:
            await self._deliverer.begin()
        log.info("worker.started", worker_id=self.store.worker_id, concurrency=self._concurrency)

    def _background_tasks(self) -> Iterator[tuple[str, BackgroundTask]]:
        yield "heartbeats", self.leases.run_heartbeats
        yield "lease expiry checks", self.leases.run_expiry_checks
        yield "cancel polls", partial(self.leases.run_cancel_polls, self.store.cancel_requests)
        yield "maintainer", self.maintainer.run
        yield "loop lag monitor", self.lag.run
        yield "backend checks", self.backends.run_checks
        yield "store checks", self._check_store
        if self._selection.job_ids is None:
            yield "standby", self.standby.run
        if self._deliverer is not None:
            yield "alerts", self._deliverer.run

    async def _check_store(self) -> None:
        """Stop at once when the store will never work again: going on would lose whatever the jobs do."""
        while True:
            try:
                await asyncio.to_thread(self.store.require_usable)
            except CrucibleError as error:
                log.critical("worker.store_gone", reason=error.message)
                self._failure = error
                self.force_stop()
                return
            await asyncio.sleep(self._settings.poll_interval_s)

    async def _claim(self, limit: int) -> Sequence[Claim]:
        return [] if self._is_overloaded() else await self.store.claim(limit, self._claimable())

    def _stand_by(self, limit: int) -> StandingClaim | None:
        # jobs selected by id need no notification: they are ready, or become ready through jobs that end here
        by_id = self._selection.job_ids is not None
        return None if by_id or self._is_overloaded() else self.store.stand_by(limit, self._claimable())

    def _is_overloaded(self) -> bool:
        """Check whether more jobs would endanger the leases of the running ones."""
        return self.lag.late and self.fetcher.running > 0

    def _claimable(self) -> Selection:
        backends = tuple(sorted(self.backends.available().items()))
        return replace(self._selection, backends=backends, excluded=self._declined_jobs.seqs())

    def _decline(self, claim: Claim) -> None:
        if claim.backend not in self.backends.declined():
            self._declined_jobs.add(claim.seq)
        self._reselect()

    def _reselect(self) -> None:
        self.fetcher.reselect()

    def _start_attempt(self, claim: Claim, claimed_at: float) -> None:
        attempt = Attempt(claim, renewed_at=claimed_at)
        self._attempts.add(attempt)
        self.leases.add(attempt)
        attempt.task = asyncio.create_task(self._run_attempt(attempt), name=f"job {claim.job_id}")

    async def _run_attempt(self, attempt: Attempt) -> None:
        bind_job(job_id=attempt.job_id, trace_id=attempt.claim.job.trace_id)
        try:
            outcome = await self._executor.execute(attempt)
            if outcome.delay_s:
                # the job is due again then; another worker that polls may claim it first
                asyncio.get_running_loop().call_later(outcome.delay_s + TIMER_SLACK_S, self.fetcher.trigger)
        except Exception:
            # a defect of the executor: the lease expires, and another worker takes the job over
            log.exception("worker.executor_failed", job_id=attempt.job_id)
        finally:
            self.leases.remove(attempt)
            self._attempts.discard(attempt)
            self.fetcher.job_ended()

    def _running_jobs(self) -> list[str]:
        # called from the watchdog's thread: copying a set is one step
        return sorted(attempt.job_id for attempt in self._attempts.copy())

    async def _hand_over(self) -> None:
        """Stop every job at its next step border. Returns when all have stopped, or after the grace period."""
        for attempt in self._attempts:
            attempt.control.stop(StopReason.SHUTDOWN)
        tasks = {attempt.task for attempt in self._attempts if attempt.task is not None}
        if not tasks:
            return
        forced = asyncio.create_task(self._forced.wait())
        all_ended = asyncio.create_task(asyncio.wait(tasks))
        # the executor applies the grace period to each job; this timeout is a safeguard
        timeout_s = self._settings.shutdown_grace_s + HAND_OVER_SLACK_S
        await asyncio.wait({forced, all_ended}, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        forced.cancel()
        all_ended.cancel()

    async def _cancel_remaining(self) -> None:
        """Cancel the attempts that still run and requeue their jobs."""
        remaining = list(self._attempts)
        if not remaining:
            return
        for attempt in remaining:
            log.warning("job.cut_short", job_id=attempt.job_id)
        await _cancel(*(attempt.task for attempt in remaining if attempt.task is not None))
        await self.store.requeue_all([attempt.claim for attempt in remaining], f"{SHUT_DOWN} at once")


def _open_deliverer(settings: Settings, store: WorkerStore, clock: Clock) -> "Deliverer | None":
    if not settings.notify:
        return None
    from nsai_work.alerts.deliverer import Deliverer
    from nsai_work.alerts.target import open_targets

    targets = open_targets(settings)
    return Deliverer(targets, store, clock, settings.sweep_interval_s) if targets else None


async def _run_with_restarts(name: str, task: BackgroundTask) -> None:
    """Run a background task to its end: it is restarted after an error, since a worker must not run without it."""
    while True:
        try:
            return await task()
        except Exception:
            log.exception("worker.task_failed", task=name)
            await asyncio.sleep(TASK_RESTART_S)


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=CANCEL_TIMEOUT_S)


async def open_runtime(
    settings: Settings,
    selection: Selection,
    concurrency: int,
    *,
    publisher: Publisher | None,
    clock: Clock | None = None,
    on_stalled: Callable[[str], None] | None = None,
) -> Runtime:
    """Create a runtime on this event loop, with its own connection to the store.

    ``on_stalled`` is called, in a thread, if the loop is late by a whole lease.

    Raises:
        StoreUnavailable: the database is unavailable.
    """
    clock = clock or SystemClock()
    io_threads = IoThreads(concurrency + EXTRA_IO_THREADS)
    asyncio.get_running_loop().set_default_executor(io_threads)
    store = await open_worker_store(settings, clock)
    return Runtime(settings, selection, concurrency, store, publisher, clock, io_threads, on_stalled)
