"""The store's face for the event loop: one thread per process that commits what waits in groups.

Everything that waits when the thread is free goes into one transaction, and each caller hears of its result only
after the commit. One that fails does not spoil the others: they are run again without it.
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

from sqlalchemy.exc import DBAPIError

from crucible.errors import CrucibleError
from nsai_work.errors import StoreUnavailable
from nsai_work.lifecycle import JobStatus
from nsai_work.store import claiming, ending, leases
from nsai_work.store.database import Database, Tx
from nsai_work.store.faults import Fault, as_work_error, classify
from nsai_work.store.records import Claim, End, LeaseReport, Requeue, Wanted

T = TypeVar("T")
R = TypeVar("R")
P = ParamSpec("P")

GROUP_TRIES: Final = 3
MAX_GROUP: Final = 500


@dataclass(slots=True, eq=False)
class _Waiting:
    """One caller's operation. ``many`` operations of the same function are merged into one call."""

    call: Callable[..., Any]
    item: Any
    many: bool
    deadline: float
    loop: asyncio.AbstractEventLoop
    future: "asyncio.Future[Any]"
    answer: Any = None
    error: BaseException | None = None


class _Failed(Exception):
    """Inside the group's transaction: this operation failed, so the transaction must be undone."""

    def __init__(self, waiting: _Waiting, error: Exception) -> None:
        super().__init__(str(error))
        self.waiting = waiting
        self.error = error


@dataclass
class AsyncStore:
    """Runs store operations for an event loop. Operations may be run more than once before they are committed.

    ``patience_s`` is how long a call waits for a database that is away before it raises StoreUnavailable.
    """

    database: Database
    patience_s: float = 10.0
    retry_every_s: float = 0.25
    _queue: "queue.SimpleQueue[_Waiting | None]" = field(default_factory=queue.SimpleQueue)
    _thread: threading.Thread | None = None
    _pid: int = 0
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

    async def claim(self, wanted: Wanted) -> list[Claim]:
        """As ``claiming.claim``."""
        return await self.run(claiming.claim, wanted)

    async def heartbeat(self, claims: Sequence[Claim], lease_ttl_s: float) -> LeaseReport:
        """As ``leases.heartbeat``; gives up before the lease could have run out."""
        return await self.run_within(lease_ttl_s / 3, leases.heartbeat, claims, lease_ttl_s)

    async def finish(self, end: End) -> None:
        """As ``ending.finish``, together with all others that end at this moment."""
        await self.run_merged(cast("Any", ending.finish_many), end)

    async def requeue(self, back: Requeue) -> JobStatus:
        """As ``ending.requeue``."""
        return await self.run(ending.requeue, back)

    async def close(self) -> None:
        """Finish what waits, then end the thread. Later calls raise StoreUnavailable."""
        self._closing.set()
        if self._thread is not None and self._pid == os.getpid():
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)

    async def _wait_for(self, call: Callable[..., Any], item: Any, many: bool, patience_s: float) -> Any:
        if self._closing.is_set():
            raise StoreUnavailable("this connection to the job store has been closed")
        self._ensure_thread()
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()
        self._queue.put(_Waiting(call, item, many, time.monotonic() + patience_s, loop, future))
        return await future

    def _ensure_thread(self) -> None:
        if self._thread is None or self._pid != os.getpid():
            # a fork copies the object but not the thread
            self._queue = queue.SimpleQueue()
            self._pid = os.getpid()
            self._thread = threading.Thread(target=self._serve, args=(self._queue,), name="nsai-store", daemon=True)
            self._thread.start()

    def _serve(self, waiting: "queue.SimpleQueue[_Waiting | None]") -> None:
        ended = False
        while not ended:
            group = [waiting.get()]
            while len(group) < MAX_GROUP and not waiting.empty():
                group.append(waiting.get())
            ended = None in group
            work = [one for one in group if one is not None and not one.future.cancelled()]
            try:
                _commit(self.database, work, self.retry_every_s)
            except BaseException as error:
                for one in work:
                    one.error = error
            _deliver(work)


def _commit(database: Database, group: Sequence[_Waiting], retry_every_s: float) -> None:
    """Run and commit a group; afterwards each has its answer or its error."""
    together, alone = list(group), list[_Waiting]()
    conflicts = 0
    while together:
        try:
            _attempt(database, together)
            break
        except _Failed as failed:
            together.remove(failed.waiting)
            alone.append(failed.waiting)
        except DBAPIError as error:
            fault = classify(error)
            conflicts += fault is Fault.CONFLICT
            if fault is Fault.AWAY:
                together = _still_patient(together, error, database.where)
                time.sleep(retry_every_s if together else 0)
            elif fault is Fault.CONFLICT and conflicts < GROUP_TRIES:
                time.sleep(0.003 * conflicts)
            else:
                alone += together
                break
        except StoreUnavailable as error:
            # from the set-up of the tables
            for one in together:
                one.error = error
            break
    for one in alone:
        _run_alone(database, one)


def _attempt(database: Database, group: Sequence[_Waiting]) -> None:
    with database.transaction() as tx:
        merged: dict[Any, list[_Waiting]] = {}
        for one in group:
            if one.many:
                merged.setdefault(one.call, []).append(one)
            else:
                _run(tx, one)
        for call, ones in merged.items():
            _run_many(tx, call, ones)


def _run(tx: Tx, one: _Waiting) -> None:
    try:
        one.answer = one.call(tx)
    except DBAPIError as error:
        if classify(error) is Fault.BUG:
            raise _Failed(one, error) from error
        raise
    except Exception as error:
        raise _Failed(one, error) from error


def _run_many(tx: Tx, call: Callable[..., Any], ones: Sequence[_Waiting]) -> None:
    try:
        answers = call(tx, [one.item for one in ones])
    except DBAPIError:
        raise
    except Exception as error:
        # which of them it was is not known: the first is run alone, and the rest tried again
        raise _Failed(ones[0], error) from error
    for one, answer in zip(ones, answers, strict=True):
        one.answer, one.error = (None, answer) if isinstance(answer, CrucibleError) else (answer, None)


def _run_alone(database: Database, one: _Waiting) -> None:
    try:
        database.retrying(lambda: _attempt(database, [one]))
    except _Failed as failed:
        one.error = failed.error
    except Exception as error:
        one.error = error


def _still_patient(group: Sequence[_Waiting], error: DBAPIError, where: str) -> list[_Waiting]:
    now = time.monotonic()
    for one in group:
        if one.deadline <= now:
            one.error = as_work_error(Fault.AWAY, error, where)
    return [one for one in group if one.error is None]


def _deliver(group: Sequence[_Waiting]) -> None:
    by_loop: dict[asyncio.AbstractEventLoop, list[_Waiting]] = {}
    for one in group:
        by_loop.setdefault(one.loop, []).append(one)
    for loop, ones in by_loop.items():
        try:
            loop.call_soon_threadsafe(_settle, ones)
        except RuntimeError:
            # the loop has been closed: nobody waits any more
            continue


def _settle(ones: Sequence[_Waiting]) -> None:
    for one in ones:
        if one.future.done():
            continue
        if one.error is not None:
            one.future.set_exception(one.error)
        else:
            one.future.set_result(one.answer)
