"""The store's face for the event loop: one thread per process that commits what waits in groups.

Everything that waits when the thread is free goes into one transaction, and each caller hears of its result only
after the commit. One that fails does not spoil the others: they are run again without it.
"""

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from crucible.errors import CrucibleError
from crucible.forks import reset_after_fork, retain_inherited
from nsai_work.errors import StoreUnavailable
from nsai_work.lifecycle import JobStatus
from nsai_work.store import lanes
from nsai_work.store.claim import general as claiming
from nsai_work.store.claim import one_statement as taking
from nsai_work.store.engine.commit_queue import CommitQueue
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.group_commit import PendingOperation, commit
from nsai_work.store.engine.listener import ListeningConnection
from nsai_work.store.lifecycle import finish as ending
from nsai_work.store.maintenance import leases, scheduler
from nsai_work.store.maintenance.leases import MAX_CRASHES
from nsai_work.store.records import Claim, ClaimRequest, DueJobs, Lease, LeaseReport, Outcome, WakeUp

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass
class AsyncStore:
    """Runs store operations for an event loop. Operations may be run more than once before they are committed.

    ``patience_s`` is how long a call waits for a database that is away before it raises StoreUnavailable.
    """

    database: Database
    patience_s: float = 10.0
    retry_every_s: float = 0.25
    _desk: CommitQueue | None = None
    _thread: threading.Thread | None = None
    _closing: threading.Event = field(default_factory=threading.Event)

    async def run(self, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation; returns after its commit.

        Raises:
            StoreUnavailable: the database was away for ``patience_s``.
            StoreFull: no space; nothing was written.
        """
        return await self.run_within(self.patience_s, operation, *args, **kwargs)

    async def run_within(
        self, patience_s: float, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``run``, with another patience."""
        answer = await self._wait_for(lambda tx: operation(tx, *args, **kwargs), None, False, patience_s)
        return cast("T", answer)

    async def run_merged(
        self, operation: Callable[[Tx, Sequence[T]], Sequence[R | CrucibleError]], item: T, /
    ) -> R:
        """Run an operation over all items that wait for it at this moment; an error in the answer is raised."""
        return cast("R", await self._wait_for(operation, item, True, self.patience_s))

    async def claim(self, request: ClaimRequest) -> list[Claim]:
        """As ``claiming.claim``."""
        claim = self._claim(request)
        self._open_desk().put(claim)
        return cast("list[Claim]", await claim.future)

    def stand_by(self, request: ClaimRequest) -> "StandingClaim | None":
        """Claim as soon as notice is given that a job is ready; None where no notice is given."""
        if not self.database.sends_notifications or self._closing.is_set():
            return None
        claim, desk = self._claim(request), self._open_desk()
        desk.stand_by(claim)
        return StandingClaim(claim, desk)

    async def heartbeat(self, claims: Sequence[Claim], lease_ttl_s: float) -> LeaseReport:
        """As ``leases.heartbeat``; gives up before the lease could have run out."""
        return await self.run_within(lease_ttl_s / 3, leases.heartbeat, claims, lease_ttl_s)

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """As ``ending.finish``, together with all others that end at this moment."""
        await self.run_merged(cast("Any", ending.finish_many), (claim, outcome))

    async def requeue(self, claim: Claim, outcome: Outcome) -> JobStatus:
        """As ``ending.requeue``."""
        return await self.run(ending.requeue, claim, outcome)

    async def running_leases(self) -> list[Lease]:
        """The leases of all running jobs, for a LeaseWatch."""
        return await self.run(leases.leases)

    async def reclaim(self, expired: Sequence[Lease], *, max_crashes: int = MAX_CRASHES) -> dict[str, JobStatus]:
        """As ``leases.reclaim``."""
        return await self.run(leases.reclaim, expired, max_crashes=max_crashes)

    async def release_due(self) -> DueJobs:
        """As ``scheduler.release_due``; lanes that have run empty then go to sleep."""
        released = await self.run(scheduler.release_due)
        await self.run(lanes.put_to_sleep)
        return released

    async def overdue_wake_ups(self, older_than_s: float) -> list[WakeUp]:
        """As ``scheduler.overdue_wake_ups``."""
        return await self.run(scheduler.overdue_wake_ups, older_than_s=older_than_s)

    async def close(self) -> None:
        """Finish what waits, then end the thread. Later calls raise StoreUnavailable."""
        self._closing.set()
        if self._thread is not None and self._desk is not None:
            self._desk.put(None)
            await asyncio.to_thread(self._thread.join)

    def _claim(self, request: ClaimRequest) -> PendingOperation:
        return self._waiting(
            lambda tx: claiming.claim(tx, request),
            single=lambda tx: taking.take(tx, request),
            patience_s=self.patience_s,
        )

    async def _wait_for(self, call: Callable[..., Any], item: Any, many: bool, patience_s: float) -> Any:
        one = self._waiting(call, item=item, many=many, patience_s=patience_s)
        self._open_desk().put(one)
        return await one.future

    def _waiting(
        self,
        call: Callable[..., Any],
        *,
        patience_s: float,
        item: Any = None,
        many: bool = False,
        single: Callable[[Tx], Any] | None = None,
    ) -> PendingOperation:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        return PendingOperation(call, item, many, self.database.clock.monotonic(), patience_s, loop, future, single)

    def _open_desk(self) -> CommitQueue:
        if self._closing.is_set():
            raise StoreUnavailable("this connection to the job store has been closed")
        if self._desk is None:
            reset_after_fork(self._reset)
            self._desk = CommitQueue(ListeningConnection(self.database))
            self._thread = threading.Thread(target=self._serve, args=(self._desk,), name="nsai-store", daemon=True)
            self._thread.start()
        return self._desk

    def _reset(self) -> None:
        # a fork copies the object but not the thread
        retain_inherited(self._desk)
        self._desk = self._thread = None

    def _serve(self, desk: CommitQueue) -> None:
        ended = False
        while not ended:
            group = desk.next_group()
            ended = None in group
            work = [one for one in group if one is not None and not one.future.cancelled()]
            try:
                commit(desk.line, work, self.retry_every_s)
            except BaseException as error:
                for one in work:
                    one.error = error
            _deliver(work)
        desk.line.close()


@dataclass(frozen=True, slots=True)
class StandingClaim:
    """A claim that stands by."""

    _claim: PendingOperation
    _desk: CommitQueue

    @property
    def done(self) -> "asyncio.Future[Sequence[Claim]]":
        """What it took, once it has been made. Nothing, if another worker was faster."""
        return self._claim.future

    @property
    def began_at(self) -> float:
        """When it was begun, in seconds of the clock's monotonic time."""
        return self._claim.since

    def stand_down(self) -> bool:
        """Take it back; false if it is being made, or has been: then ``done`` has to be waited for."""
        return self._desk.stand_down(self._claim)


def _deliver(group: Sequence[PendingOperation]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[PendingOperation]] = {}
    for one in group:
        by_loop.setdefault(one.loop, []).append(one)
    for loop, ones in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, ones)
        except RuntimeError:
            # the loop has been closed: nobody waits any more
            continue


def _settle(ones: Sequence[PendingOperation]) -> None:
    for one in ones:
        if one.future.done():
            continue
        if one.error is not None:
            one.future.set_exception(one.error)
        else:
            one.future.set_result(one.answer)
