"""The store for the event loop: one thread per process commits pending operations in groups.

All operations that are pending when the thread is free share a transaction, and each caller gets its result after
the commit. An operation that fails is taken out, and the others run again without it.
"""

import asyncio
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar, cast

from crucible.errors import CrucibleError
from crucible.runtime.forks import reset_after_fork, retain_inherited
from nsai_work.errors import StoreUnavailable
from nsai_work.lifecycle import JobStatus
from nsai_work.store import lanes
from nsai_work.store.claim import claim, claim_within
from nsai_work.store.claim.shares import prune_shares
from nsai_work.store.engine.commit_queue import CommitQueue
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.group_commit import PendingOperation, commit
from nsai_work.store.engine.listener import ListeningConnection
from nsai_work.store.lifecycle import finish
from nsai_work.store.maintenance import leases, rescuer, scheduler
from nsai_work.store.maintenance.rescuer import LEASE_EXPIRED, MAX_CRASHES
from nsai_work.store.presence import (
    ProcessLock,
    absent_sessions,
    ended_processes,
    remove_released,
    session_key,
)
from nsai_work.store.queries import wake_ups
from nsai_work.store.records import Absence, Claim, ClaimRequest, DueJobs, Lease, LeaseReport, Outcome, WakeUp
from nsai_work.store.wait_reasons import recorder
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")


@dataclass
class AsyncStore:
    """Runs store operations for an event loop. An operation may run more than once before it is committed.

    ``patience_s`` is how long a call waits for an unavailable database before it raises StoreUnavailable. With a
    ``worker_id`` it is also that worker's presence, from its first operation until it is closed. A forked child
    starts a thread and a connection of its own.
    """

    database: Database
    patience_s: float = 10.0
    retry_every_s: float = 0.25
    worker_id: str | None = None
    _queue: CommitQueue | None = None
    _thread: threading.Thread | None = None
    _closed: bool = False
    _failure: BaseException | None = None
    _process_lock: ProcessLock | None = None
    _fronts: recorder.FrontRecorder = field(default_factory=recorder.FrontRecorder)

    def __post_init__(self) -> None:
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        # the thread does not exist in the child, and the connection belongs to the parent
        retain_inherited(self._queue)
        self._queue = self._thread = None

    async def run(self, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run an operation. Returns its result after the commit.

        Raises:
            StoreUnavailable: the database did not answer for ``patience_s``.
            StoreFull: no disk space; nothing was written.
        """
        return await self.run_within(self.patience_s, operation, *args, **kwargs)

    async def run_within(
        self, patience_s: float, operation: Callable[Concatenate[Tx, P], T], /, *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """As ``run``, with another patience."""
        pending = self._operation(lambda tx: operation(tx, *args, **kwargs), patience_s=patience_s)
        return cast("T", await self._result_of(pending))

    async def run_merged(
        self, operation: Callable[[Tx, Sequence[T]], Sequence[R | CrucibleError]], item: T, /
    ) -> R:
        """Run an operation once over all its pending items. An error in its results is raised to the item's
        caller."""
        pending = self._operation(operation, item=item, merged=True, patience_s=self.patience_s)
        return cast("R", await self._result_of(pending))

    async def claim(self, request: ClaimRequest) -> list[Claim]:
        """Claim up to ``request.limit`` ready jobs."""
        return cast("list[Claim]", await self._result_of(self._claim(request)))

    def stand_by(self, request: ClaimRequest) -> "StandingClaim | None":
        """Claim on the next notification of a ready job. None if the database sends no notifications."""
        if not self.database.sends_notifications or self._closed:
            return None
        operation, commit_queue = self._claim(request), self._open_queue()
        commit_queue.stand_by(operation)
        return StandingClaim(operation, commit_queue)

    async def heartbeat(
        self, claims: Sequence[Claim], lease_ttl_s: float, graces_s: Mapping[str, float | None] | None = None
    ) -> LeaseReport:
        """As ``leases.heartbeat``. Raises StoreUnavailable before the leases could have expired."""
        return await self.run_within(lease_ttl_s / 3, leases.heartbeat, claims, lease_ttl_s, graces_s or {})

    @property
    def has_presence(self) -> bool:
        """Others notice the end of this worker's process or session at once, as far as is known."""
        if self.database.postgres:
            return self.worker_id is not None and self.database.has_sessions
        return self._process_lock is not None and self._process_lock.held

    @property
    def session_confirmed_at(self) -> float | None:
        """The monotonic time at which the session that is this worker's presence certainly existed; None without
        one."""
        return None if self._queue is None else self._queue.connection.confirmed_at

    @property
    def session_began_at(self) -> float | None:
        """The monotonic time since which this worker has been connected without a break. None on SQLite, to which
        there is no connection that could break."""
        return None if self._queue is None else self._queue.connection.connected_at

    async def absent(self, worker_ids: Collection[str]) -> Absence:
        """The workers, of those given, without a presence at this moment. On PostgreSQL that includes any that
        never had one. Without a session of its own, this worker cannot know, and none is absent."""
        if not worker_ids:
            return Absence(frozenset(), self.session_began_at)
        if not self.database.postgres:
            return Absence(await asyncio.to_thread(ended_processes, self._database_file, worker_ids), None)
        absent = await self.run(lambda tx: absent_sessions(tx.connection, worker_ids))
        # read afterwards: of a session that has just been replaced, nothing is concluded
        began_at = self.session_began_at
        return Absence(frozenset() if began_at is None else absent, began_at)

    async def forget_ended(self, keep: Collection[str]) -> None:
        """Delete what workers that have ended left of their presence, except for those in ``keep``."""
        if not self.database.postgres:
            await asyncio.to_thread(remove_released, self._database_file, keep)

    @property
    def _database_file(self) -> Path:
        return Path(str(self.database.url.database))

    async def finish(self, claim: Claim, outcome: Outcome) -> None:
        """As ``finish.finish``, merged with all others that are pending."""
        await self.run_merged(cast("Any", finish.finish_many), (claim, outcome))

    async def requeue(self, claim: Claim, outcome: Outcome) -> JobStatus:
        """As ``finish.requeue``."""
        return await self.run(finish.requeue, claim, outcome)

    async def running_leases(self) -> list[Lease]:
        """The leases of all running jobs, for a LeaseWatch."""
        return await self.run(leases.running_leases)

    async def reclaim(
        self, ended: Sequence[Lease], *, reason: str = LEASE_EXPIRED, max_crashes: int = MAX_CRASHES
    ) -> dict[str, JobStatus]:
        """As ``rescuer.reclaim``."""
        return await self.run(rescuer.reclaim, ended, reason=reason, max_crashes=max_crashes)

    async def release_due(self) -> DueJobs:
        """As ``scheduler.release_due``; afterwards wait reasons are recorded, empty lanes deactivated, and
        the positions of old selections deleted."""
        due_jobs = await self.run(scheduler.release_due)
        for _ in range(recorder.MAX_TRANSACTIONS):
            if not await self.run(self._fronts.record):
                break
        for _ in range(recorder.MAX_TRANSACTIONS):
            if await self.run(recorder.record_behind, recorder.MAX_BEHIND) < recorder.MAX_BEHIND:
                break
        await self.run(lanes.deactivate_empty_lanes)
        await self.run(prune_shares)
        return due_jobs

    async def overdue_wake_ups(self, older_than_s: float) -> list[WakeUp]:
        """As ``wake_ups.overdue_wake_ups``."""
        return await self.run(wake_ups.overdue_wake_ups, older_than_s=older_than_s)

    def require_usable(self) -> None:
        """Raise StoreUnavailable if this store will never work again: its thread has ended, or (StoreGone) its
        SQLite file was deleted or replaced."""
        if self._failure is not None:
            raise _thread_ended(self._failure)
        self.database.require_file()

    async def close(self) -> None:
        """Commit pending operations and end the thread. Later calls raise StoreUnavailable."""
        self._closed = True
        if self._thread is not None and self._queue is not None:
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        if self._process_lock is not None:
            self._process_lock.release()

    def _claim(self, request: ClaimRequest) -> PendingOperation:
        return self._operation(
            lambda tx: claim_within(tx, request),
            standalone=lambda connection: claim(connection, request),
            patience_s=self.patience_s,
        )

    async def _result_of(self, operation: PendingOperation) -> Any:
        self._open_queue().put(operation)
        if self._failure is not None:
            # the thread may have ended before it saw the operation
            raise _thread_ended(self._failure)
        return await operation.future

    def _operation(
        self,
        call: Callable[..., Any],
        *,
        patience_s: float,
        item: Any = None,
        merged: bool = False,
        standalone: Callable[[ListeningConnection], Any] | None = None,
    ) -> PendingOperation:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        since = self.database.clock.monotonic()
        return PendingOperation(call, item, merged, since, patience_s, loop, future, standalone)

    def _open_queue(self) -> CommitQueue:
        if self._closed:
            raise StoreUnavailable("this connection to the job store has been closed")
        if self._queue is None:
            key = None if self.worker_id is None else session_key(self.worker_id)
            self._lock_process()
            self._queue = CommitQueue(ListeningConnection(self.database, key))
            self._thread = threading.Thread(
                target=self._commit_groups, args=(self._queue,), name="nsai-store", daemon=True
            )
            self._thread.start()
        return self._queue

    def _lock_process(self) -> None:
        if self.database.postgres or self.worker_id is None:
            return
        self._process_lock = ProcessLock(self._database_file, self.worker_id)
        try:
            self._process_lock.acquire()
        except OSError as error:
            # others notice the end of this process by its leases
            log.warning("store.no_presence", reason=error.strerror or str(error))

    def _commit_groups(self, commit_queue: CommitQueue) -> None:
        try:
            self._commit_until_closed(commit_queue)
        except BaseException as error:
            log.critical("store.thread_failed", exc_info=error)
            self._failure = error
            operations = [pending for pending in commit_queue.abandon() if pending is not None]
            for operation in operations:
                operation.error = _thread_ended(error)
            _deliver(operations)
        finally:
            commit_queue.connection.close()

    def _commit_until_closed(self, commit_queue: CommitQueue) -> None:
        ended = False
        while not ended:
            group = commit_queue.next_group()
            ended = None in group
            operations = [pending for pending in group if pending is not None and not pending.future.cancelled()]
            try:
                commit(commit_queue.connection, operations, self.retry_every_s)
            except BaseException as error:
                for operation in operations:
                    operation.error = error
            _deliver(operations)


@dataclass(frozen=True, slots=True)
class StandingClaim:
    """A claim that runs on the next notification."""

    _operation: PendingOperation
    _commit_queue: CommitQueue

    @property
    def done(self) -> "asyncio.Future[Sequence[Claim]]":
        """The claimed jobs, once the claim has run; none if other workers were faster."""
        return self._operation.future

    @property
    def began_at(self) -> float:
        """The start of the claim, in seconds of the monotonic clock."""
        return self._operation.since

    def stand_down(self) -> bool:
        """Cancel the claim. Returns False if it is being run or has been: then ``done`` must be awaited."""
        return self._commit_queue.stand_down(self._operation)


def _thread_ended(error: BaseException) -> StoreUnavailable:
    return StoreUnavailable(f"the thread of the job store has ended: {type(error).__name__}; restart the process")


def _deliver(operations: Sequence[PendingOperation]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[PendingOperation]] = {}
    for operation in operations:
        by_loop.setdefault(operation.loop, []).append(operation)
    for loop, of_loop in by_loop.items():
        try:
            loop.call_soon_threadsafe(_resolve, of_loop)
        except RuntimeError:
            # the loop is closed, and its futures are awaited by nobody
            continue


def _resolve(operations: Sequence[PendingOperation]) -> None:
    for operation in operations:
        if operation.future.done():
            continue
        if operation.error is not None:
            operation.future.set_exception(operation.error)
        else:
            operation.future.set_result(operation.result)
