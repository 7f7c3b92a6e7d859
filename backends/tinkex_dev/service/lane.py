"""A model's queue of operations, executed one at a time, by default in seq_id order."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.options import Order
from backends.tinkex_dev.service.promises import Failed, Promise, Result

Work = Callable[[], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class _QueuedOperation:
    promise: Promise
    work: Work


class ServerLane:
    """Executes operations in seq_id order; early arrivals wait for the missing ones before them.

    A refused request frees its seq_id and does not block later ones. An operation without a seq_id runs in order
    of arrival. Closing the lane fails all queued operations. ``order``: another order, as some servers have it.
    """

    def __init__(
        self,
        resolve: Callable[[Promise, Result], None] = Promise.resolve,
        *,
        first: int = 1,
        order: Order = Order.SEQ_ID,
    ) -> None:
        self._resolve = resolve
        self._order = order
        self.next_seq = first
        self._numbered: dict[int, _QueuedOperation] = {}
        self._refused: set[int] = set()
        self._unnumbered: deque[_QueuedOperation] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._closed: str | None = None

    def submit(self, seq_id: int | None, promise: Promise, work: Work) -> None:
        """Enqueue an operation; its promise is resolved once it has run."""
        operation = _QueuedOperation(promise, work)
        if self._closed is not None:
            promise.resolve(Failed(self._closed, "server"))
        elif seq_id is not None and self._order is not Order.SEQ_ID:
            self._submit_by_arrival(seq_id, operation)
        elif seq_id is None or seq_id < self.next_seq:
            self._unnumbered.append(operation)
        else:
            self._refused.discard(seq_id)
            self._numbered[seq_id] = operation
        self._start_runner()

    def _submit_by_arrival(self, seq_id: int, operation: _QueuedOperation) -> None:
        if self._order is Order.STRICT and seq_id > self.next_seq:
            operation.promise.resolve(Failed(f"expected seq_id {self.next_seq}, got {seq_id}", "user"))
            return
        self.next_seq = max(self.next_seq, seq_id + 1)
        self._unnumbered.append(operation)

    def is_past(self, seq_id: int) -> bool:
        """Check whether the lane has passed that seq_id, so that nothing may run under it any more."""
        if self._order is Order.ARRIVAL:
            return False
        return seq_id < self.next_seq and seq_id not in self._refused

    def skip(self, seq_id: int) -> None:
        """Release the seq_id of a refused request, so that later operations run."""
        if seq_id >= self.next_seq and seq_id not in self._numbered:
            self._refused.add(seq_id)
            self._start_runner()

    def _start_runner(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())

    def close(self, reason: str) -> None:
        """Stop executing; queued and later operations fail with ``reason``."""
        self._closed = reason
        for operation in [*self._numbered.values(), *self._unnumbered]:
            operation.promise.resolve(Failed(reason, "server"))
        self._numbered.clear()
        self._unnumbered.clear()

    def _pop_ready(self) -> _QueuedOperation | None:
        while self.next_seq in self._refused and self.next_seq not in self._numbered:
            self.next_seq += 1
        operation = self._numbered.pop(self.next_seq, None)
        if operation is not None:
            self.next_seq += 1
            return operation
        return self._unnumbered.popleft() if self._unnumbered else None

    async def _run(self) -> None:
        while (operation := self._pop_ready()) is not None:
            self._resolve(operation.promise, await result_of(operation.work))


async def result_of(work: Work) -> Result:
    """Await the work's result. Any exception becomes ``Failed``, so that no promise is lost."""
    try:
        return await work()
    except OperationFailed as error:
        return Failed(error.message, error.fault_of)
    except Refused as error:
        return Failed(error.message, "user")
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}", "server")
