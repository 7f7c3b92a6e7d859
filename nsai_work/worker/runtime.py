"""A worker's inside: intake, leases, sweeper and the running jobs, all on one event loop.

``Runtime.run`` lives from start to stop on the loop it is called on; RuntimeThread gives it a thread of its own.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

from nsai_work.clock import Clock, SystemClock
from nsai_work.control import StopReason
from nsai_work.dispatch.publisher import Publisher
from nsai_work.logs import get_logger
from nsai_work.settings import Settings
from nsai_work.store import StandingClaim
from nsai_work.store.records import Claim, Selection, WakeUp
from nsai_work.worker.attempt import Attempt
from nsai_work.worker.backends import BackendPool
from nsai_work.worker.execute import Executor
from nsai_work.worker.fetcher import Fetcher
from nsai_work.worker.leases import LeaseKeeper
from nsai_work.worker.loop_lag import LoopLagMonitor
from nsai_work.worker.maintainer import Maintainer
from nsai_work.worker.worker_store import WorkerStore, open_worker_store

log = get_logger(__name__)

PART_RESTART_S = 1.0
SLACK_S = 0.005

Part: TypeAlias = Callable[[], Coroutine[Any, Any, None]]


class Runtime:
    """The parts of one worker, wired together. Made and used on one event loop, but for ``wake_soon``."""

    def __init__(
        self,
        settings: Settings,
        selection: Selection,
        concurrency: int,
        store: WorkerStore,
        publisher: Publisher | None,
        clock: Clock,
    ) -> None:
        self._settings = settings
        self._selection = selection
        self._concurrency = concurrency
        self.store = store
        self._attempts: set[Attempt] = set()
        self._stopping = asyncio.Event()
        self._forced = asyncio.Event()
        # jobs that were asked for by name must not wait for another worker
        self.backends = BackendPool(clock, only_usable=selection.job_ids is None, credentials=settings.credentials)
        self.leases = LeaseKeeper(
            store.heartbeat, clock, ttl_s=settings.lease_ttl_s, interval_s=settings.heartbeat_interval_s
        )
        self.fetcher = Fetcher(
            self._take,
            self._begin,
            store.fences,
            clock,
            concurrency=concurrency,
            poll_interval_s=settings.poll_interval_s,
            stand_by=self._stand_by,
        )
        self.lag = LoopLagMonitor(clock, lease_ttl_s=settings.lease_ttl_s)
        self.maintainer = Maintainer(store, publisher, clock, self.fetcher.look, settings)
        self._executor = Executor(
            store,
            self.backends,
            clock,
            store.journal,
            shutdown_grace_s=settings.shutdown_grace_s,
            credit_poll_s=settings.credit_poll_s,
        )

    def wake(self, wake: WakeUp) -> None:
        """Take a hint."""
        self.fetcher.wake(wake)

    def stop(self) -> None:
        """Claim no more, hand running jobs over, then end. Idempotent."""
        self._stopping.set()

    def force_stop(self) -> None:
        """Give running jobs no more time."""
        self._stopping.set()
        self._forced.set()

    async def run(self, on_ready: Callable[[], None] = lambda: None) -> None:
        """Work until told to stop."""
        await self.store.register(await asyncio.to_thread(self.backends.available))
        log.info("worker.started", worker_id=self.store.worker_id, concurrency=self._concurrency)
        fetcher = asyncio.create_task(_forever("fetcher", self.fetcher.run))
        parts = [asyncio.create_task(_forever(name, part)) for name, part in self._parts()]
        try:
            on_ready()
            await self._stopping.wait()
            await _cancel(fetcher)
            await self._hand_over()
        finally:
            await _cancel(fetcher, *parts)
            await self._abandon()
            await self.backends.close()
            await self.store.close()
            log.info(
                "worker.stopped",
                worker_id=self.store.worker_id,
                loop_late_p50_ms=self.lag.quantile_ms(0.5),
                loop_late_p99_ms=self.lag.quantile_ms(0.99),
                loop_late_max_ms=self.lag.quantile_ms(1.0),
            )

    def _parts(self) -> Iterator[tuple[str, Part]]:
        yield "leases", self.leases.keep
        yield "lease guard", self.leases.guard
        yield "cancel watch", partial(self.leases.watch_cancels, self.store.cancel_requests)
        yield "maintainer", self.maintainer.run
        yield "loop lag monitor", self.lag.run

    async def _take(self, limit: int) -> Sequence[Claim]:
        return [] if self._is_busy() else await self.store.claim(limit, self._claimable())

    def _stand_by(self, limit: int) -> StandingClaim | None:
        # jobs that were asked for by name are there already, or become ready by what happens here
        by_name = self._selection.job_ids is not None
        return None if by_name or self._is_busy() else self.store.stand_by(limit, self._claimable())

    def _is_busy(self) -> bool:
        """Whether more jobs would cost the leases of those that run; other workers take them, or this one later."""
        return self.lag.late and self.fetcher.running > 0

    def _claimable(self) -> Selection:
        return replace(self._selection, backends=tuple(sorted(self.backends.available().items())))

    def _begin(self, claim: Claim, claimed_at: float) -> None:
        attempt = Attempt(claim, renewed_at=claimed_at)
        self._attempts.add(attempt)
        self.leases.add(attempt)
        attempt.task = asyncio.create_task(self._attempt(attempt), name=f"job {claim.job_id}")

    async def _attempt(self, attempt: Attempt) -> None:
        try:
            outcome = await self._executor.execute(attempt)
            if outcome.delay_s:
                # it will be due then; who else looks sooner may have it
                asyncio.get_running_loop().call_later(outcome.delay_s + SLACK_S, self.fetcher.look)
        except Exception:
            # the executor itself is at fault; the lease runs out and the job is taken over
            log.exception("worker.executor_failed", job_id=attempt.job_id)
        finally:
            self.leases.remove(attempt)
            self._attempts.discard(attempt)
            self.fetcher.ended()

    async def _hand_over(self) -> None:
        """Ask every job to stop at its next border; leave when all have, or when time is up."""
        for attempt in self._attempts:
            attempt.control.stop(StopReason.SHUTDOWN)
        tasks = {attempt.task for attempt in self._attempts if attempt.task is not None}
        if not tasks:
            return
        hurry = asyncio.create_task(self._forced.wait())
        everything = asyncio.create_task(asyncio.wait(tasks))
        # the executors give each job the grace period; this is the net below them
        limit = self._settings.shutdown_grace_s + 15
        await asyncio.wait({hurry, everything}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        hurry.cancel()
        everything.cancel()

    async def _abandon(self) -> None:
        """Cancel what still runs and give its leases back."""
        left = list(self._attempts)
        if not left:
            return
        for attempt in left:
            log.warning("job.cut_short", job_id=attempt.job_id)
        await _cancel(*(attempt.task for attempt in left if attempt.task is not None))
        await self.store.release([attempt.claim for attempt in left], "the worker was shut down at once")


async def _forever(name: str, part: Part) -> None:
    """A part that fails is started again: no error of one job or one statement may leave a worker half dead."""
    while True:
        try:
            await part()
        except Exception:
            log.exception("worker.part_failed", part=name)
            await asyncio.sleep(PART_RESTART_S)


async def _cancel(*tasks: "asyncio.Task[Any]") -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks, timeout=10)


async def open_runtime(
    settings: Settings,
    selection: Selection,
    concurrency: int,
    *,
    publisher: Publisher | None,
    clock: Clock | None = None,
) -> Runtime:
    """A runtime with its own connection to the store.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    clock = clock or SystemClock()
    store = await open_worker_store(settings, clock)
    return Runtime(settings, selection, concurrency, store, publisher, clock)
