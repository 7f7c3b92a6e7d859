"""The claiming loop of a worker: turns wake-ups, ended jobs and the clock into claims.

It does not matter which job a wake-up names: what is run next is decided by the claim, in the store. A claim that
got all it asked for is followed by another; else the fetcher waits for the next reason to look.
"""

import asyncio
import contextlib
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from crucible.errors import CrucibleError
from nsai_work.clock import Clock
from nsai_work.logs import get_logger
from nsai_work.store import StandingClaim
from nsai_work.store.records import Claim, WakeUp

log = get_logger(__name__)

# claims of one transaction: enough to share its cost, few enough to keep other workers busy too
MAX_BATCH = 64
MAX_REMEMBERED = 10_000
MAX_CHECKS = 50

Take = Callable[[int], Awaitable[Sequence[Claim]]]


StandBy = Callable[[int], StandingClaim | None]
Fences = Callable[[Sequence[str]], Awaitable[dict[str, int]]]


class Fetcher:
    """The claiming loop of one worker. ``wake`` and ``look`` are called on the event loop.

    ``counts`` counts wake-ups by what became of them: useful, taken (somebody has it), stale (of an older fence),
    unknown.
    """

    def __init__(
        self,
        take: Take,
        begin: Callable[[Claim, float], None],
        fences: Fences,
        clock: Clock,
        *,
        concurrency: int,
        poll_interval_s: float,
        stand_by: StandBy = lambda _limit: None,
    ) -> None:
        self._take = take
        self._stand_by = stand_by
        self._begin = begin
        self._fences = fences
        self._clock = clock
        self._concurrency = concurrency
        self._poll_interval_s = poll_interval_s
        self._running = 0
        self._due = asyncio.Event()
        self._wake_ups: OrderedDict[str, int] = OrderedDict()
        self._seen: OrderedDict[str, int] = OrderedDict()
        self.counts: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """Jobs that this worker runs now."""
        return self._running

    def wake(self, wake: WakeUp) -> None:
        """A wake-up has arrived."""
        if self._seen.get(wake.job_id, -1) > wake.fence:
            # it is of a job that was claimed here: what came with it was seen then too
            self._count_seen(wake.job_id, wake.fence)
            return
        if len(self._wake_ups) < MAX_REMEMBERED:
            self._wake_ups[wake.job_id] = wake.fence
        self._due.set()

    def look(self) -> None:
        """Something may have become claimable."""
        self._due.set()

    def ended(self) -> None:
        """A job has ended: there is a place, and others may have been waiting for this one."""
        self._running -= 1
        self._due.set()

    async def run(self) -> None:
        """Claim for ever. When it is cancelled, what is just being claimed is still begun: nobody else would."""
        while True:
            asked = min(self._concurrency - self._running, MAX_BATCH)
            self._due.clear()
            got = await self._claim(asked) if asked > 0 else 0
            if asked <= 0 or got < asked:
                await self._check_wake_ups()
                await self._wait(asked - got)

    async def _claim(self, asked: int) -> int:
        taking = asyncio.ensure_future(self._take(asked))
        sent_at = self._clock.monotonic()
        try:
            await asyncio.wait({taking})
        finally:
            # not even when this is cancelled is what is being claimed left alone
            if not taking.done():
                await asyncio.wait({taking})
            got = self._begin_taken(taking, sent_at)
        if got is None:
            await asyncio.sleep(min(1.0, self._poll_interval_s))
        return got or 0

    async def _wait(self, room: int) -> None:
        """Wait for a reason to look. If there is room, a claim stands by meanwhile; what it takes is begun."""
        standing = self._stand_by(room) if room > 0 else None
        begun = asyncio.Event()

        def on_told(taken: "asyncio.Future[Sequence[Claim]]") -> None:
            assert standing is not None
            self._begin_taken(taken, standing.began_at)
            begun.set()
            self._due.set()

        if standing is not None:
            standing.done.add_done_callback(on_told)
        try:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._poll_interval_s):
                    await self._due.wait()
        finally:
            if standing is not None and not standing.stand_down():
                # before its jobs are counted, the next claim would ask for too many
                await begun.wait()

    def _begin_taken(self, taken: "asyncio.Future[Sequence[Claim]]", sent_at: float) -> int | None:
        """Begin what a claim took; how many jobs that are, or None if it failed."""
        try:
            claims = taken.result()
        except CrucibleError as error:
            log.warning("claim.failed", error=error.code)
            return None
        for claim in claims:
            self._remember(claim)
            self._running += 1
            self._begin(claim, sent_at)
        return len(claims)

    def _remember(self, claim: Claim) -> None:
        self._seen[claim.job_id] = claim.fence
        self._seen.move_to_end(claim.job_id)
        if len(self._seen) > MAX_REMEMBERED:
            self._seen.popitem(last=False)
        if self._wake_ups.pop(claim.job_id, None) is not None:
            self.counts["useful"] += 1

    async def _check_wake_ups(self) -> None:
        """Count wake-ups that led to no claim here; all of them are harmless."""
        strange: dict[str, int] = {}
        while self._wake_ups and len(strange) < MAX_CHECKS:
            job_id, fence = self._wake_ups.popitem(last=False)
            if job_id in self._seen:
                self._count_seen(job_id, fence)
            else:
                strange[job_id] = fence
        if strange:
            await self._classify_wake_ups(strange)

    def _count_seen(self, job_id: str, fence: int) -> None:
        self.counts["taken" if fence >= self._seen[job_id] - 1 else "stale"] += 1

    async def _classify_wake_ups(self, wake_ups: dict[str, int]) -> None:
        try:
            known = await self._fences(list(wake_ups))
        except CrucibleError:
            return
        for job_id, fence in wake_ups.items():
            if job_id not in known:
                self.counts["unknown"] += 1
                log.warning("wake.unknown_job", job_id=job_id, count=self.counts["unknown"])
            elif fence < known[job_id] - 1:
                self.counts["stale"] += 1
                log.info("wake.stale", job_id=job_id, fence=fence, current=known[job_id])
            else:
                self.counts["taken"] += 1
