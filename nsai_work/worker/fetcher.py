"""The fetcher: claims jobs for a worker when a wake-up arrives, when a job ends, and at the polling interval.

A wake-up is only a trigger: the claim decides in the store which jobs run next, whatever job the wake-up names. A
claim that returns as many jobs as requested is followed by another; after any other claim the fetcher waits for a
trigger.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.store import StandingClaim
from nsai_work.store.records import Claim, WakeUp
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

# claims per transaction: enough to share its cost, few enough to leave jobs for other workers
MAX_BATCH = 64
MAX_REMEMBERED = 10_000
MAX_CHECKS = 50

ClaimJobs = Callable[[int], Awaitable[Sequence[Claim]]]
StandBy = Callable[[int], StandingClaim | None]
StartAttempt = Callable[[Claim, float], None]
ReadFences = Callable[[Sequence[str]], Awaitable[dict[str, int]]]


class Fetcher:
    """The claiming loop of a worker. All methods are called on the event loop.

    ``counts`` counts wake-ups: ``useful`` (their job was claimed here), ``taken`` (claimed already, here or by
    another worker), ``stale`` (of an older fence), ``unknown`` (there is no such job).
    """

    def __init__(
        self,
        claim: ClaimJobs,
        start: StartAttempt,
        fences: ReadFences,
        clock: Clock,
        *,
        concurrency: int,
        poll_interval_s: float,
        stand_by: StandBy = lambda _limit: None,
    ) -> None:
        self._claim = claim
        self._stand_by = stand_by
        self._start = start
        self._fences = fences
        self._clock = clock
        self._concurrency = concurrency
        self._poll_interval_s = poll_interval_s
        self._running = 0
        self._standing: StandingClaim | None = None
        self._triggered = asyncio.Event()
        self._wake_ups: OrderedDict[str, int] = OrderedDict()
        self._claimed: OrderedDict[str, int] = OrderedDict()
        self.counts: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """The number of jobs that this worker runs."""
        return self._running

    def wake(self, wake_up: WakeUp) -> None:
        """Handle a wake-up."""
        if self._claimed.get(wake_up.job_id, -1) > wake_up.fence:
            # its job was claimed here after it was sent, and so were the jobs that became ready with it
            self._count_claimed(wake_up.job_id, wake_up.fence)
            return
        if len(self._wake_ups) < MAX_REMEMBERED:
            self._wake_ups[wake_up.job_id] = wake_up.fence
        self._triggered.set()

    def trigger(self) -> None:
        """Claim soon: a job may have become claimable."""
        self._triggered.set()

    def reselect(self) -> None:
        """Withdraw a standing claim, which is for jobs that this worker no longer wants, and claim again soon."""
        if self._standing is not None and self._standing.stand_down():
            self._standing = None
        self._triggered.set()

    def job_ended(self) -> None:
        """Free the capacity of a job that has ended, and claim soon: other jobs may depend on it."""
        self._running -= 1
        self._triggered.set()

    async def run(self) -> None:
        """Claim forever. On cancellation, the jobs of a claim in progress are still started: no other worker
        would."""
        while True:
            limit = min(self._concurrency - self._running, MAX_BATCH)
            self._triggered.clear()
            claimed = await self._fetch(limit) if limit > 0 else 0
            if limit <= 0 or claimed < limit:
                await self._check_wake_ups()
                await self._wait(limit - claimed)

    async def _fetch(self, limit: int) -> int:
        claiming = asyncio.ensure_future(self._claim(limit))
        sent_at = self._clock.monotonic()
        try:
            await asyncio.wait({claiming})
        finally:
            # the claim is awaited even if this task is cancelled
            if not claiming.done():
                await asyncio.wait({claiming})
            count = self._start_claimed(claiming, sent_at)
        if count is None:
            await asyncio.sleep(min(1.0, self._poll_interval_s))
        return count or 0

    async def _wait(self, capacity: int) -> None:
        """Wait for a trigger. With free capacity, a standing claim is open meanwhile, and its jobs are started."""
        standing = self._standing = self._stand_by(capacity) if capacity > 0 else None
        started = asyncio.Event()

        def on_claimed(by: StandingClaim, claims: "asyncio.Future[Sequence[Claim]]") -> None:
            self._start_claimed(claims, by.began_at)
            started.set()
            self._triggered.set()

        if standing is not None:
            standing.done.add_done_callback(partial(on_claimed, standing))
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._triggered.wait()
        finally:
            standing, self._standing = self._standing, None
            if standing is not None and not standing.stand_down():
                # until its jobs are counted, the next claim would exceed the capacity
                await started.wait()

    def _start_claimed(self, claims: "asyncio.Future[Sequence[Claim]]", sent_at: float) -> int | None:
        """Start the jobs of a claim. Returns their number, or None if the claim failed."""
        try:
            result = claims.result()
        except CrucibleError as error:
            log.warning("claim.failed", error=error.code)
            return None
        except Exception:
            # raised in a callback it would be lost, and the wait for the jobs of a standing claim never end
            log.exception("claim.failed")
            return None
        for claim in result:
            self._remember(claim)
            self._running += 1
            self._start(claim, sent_at)
        return len(result)

    def _remember(self, claim: Claim) -> None:
        self._claimed[claim.job_id] = claim.fence
        self._claimed.move_to_end(claim.job_id)
        if len(self._claimed) > MAX_REMEMBERED:
            self._claimed.popitem(last=False)
        if self._wake_ups.pop(claim.job_id, None) is not None:
            self.counts["useful"] += 1

    async def _check_wake_ups(self) -> None:
        """Count the wake-ups that led to no claim here. All of them are harmless."""
        others: dict[str, int] = {}
        while self._wake_ups and len(others) < MAX_CHECKS:
            job_id, fence = self._wake_ups.popitem(last=False)
            if job_id in self._claimed:
                self._count_claimed(job_id, fence)
            else:
                others[job_id] = fence
        if others:
            await self._classify_wake_ups(others)

    def _count_claimed(self, job_id: str, fence: int) -> None:
        self.counts["taken" if fence >= self._claimed[job_id] - 1 else "stale"] += 1

    async def _classify_wake_ups(self, wake_ups: dict[str, int]) -> None:
        try:
            fences = await self._fences(list(wake_ups))
        except CrucibleError:
            return
        for job_id, fence in wake_ups.items():
            if job_id not in fences:
                self.counts["unknown"] += 1
                log.warning("wake.unknown_job", job_id=job_id, count=self.counts["unknown"])
            elif fence < fences[job_id] - 1:
                self.counts["stale"] += 1
                log.info("wake.stale", job_id=job_id, fence=fence, current=fences[job_id])
            else:
                self.counts["taken"] += 1
