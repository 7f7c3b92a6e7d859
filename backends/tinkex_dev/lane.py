"""One model's operations, one after another in the order of their seq_ids."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.promises import Failed, Promise, Result

Work = Callable[[], Awaitable[Result]]


@dataclass(frozen=True, slots=True)
class _Operation:
    promise: Promise
    work: Work


class Lane:
    """Runs operations in seq_id order: what arrives early waits for what is missing before it.

    A request that was refused leaves its seq_id free and does not hold up those after it. An operation without
    a seq_id runs when its turn of arrival comes. Closing the lane fails what waits.
    """

    def __init__(self, keep: Callable[[Promise, Result], None] = Promise.keep, *, first: int = 1) -> None:
        self._keep = keep
        self.next_seq = first
        self._waiting: dict[int, _Operation] = {}
        self._refused: set[int] = set()
        self._unnumbered: deque[_Operation] = deque()
        self._runner: asyncio.Task[None] | None = None
        self._closed: str | None = None

    def submit(self, seq_id: int | None, promise: Promise, work: Work) -> None:
        """Put an operation in line; its promise is kept when it has run."""
        operation = _Operation(promise, work)
        if self._closed is not None:
            promise.keep(Failed(self._closed, "server"))
        elif seq_id is None or seq_id < self.next_seq:
            self._unnumbered.append(operation)
        else:
            self._refused.discard(seq_id)
            self._waiting[seq_id] = operation
        self._wake()

    def is_past(self, seq_id: int) -> bool:
        """Whether an operation with that or a later seq_id has run, and none may run under it any more."""
        return seq_id < self.next_seq and seq_id not in self._refused

    def skip(self, seq_id: int) -> None:
        """The request with that seq_id was refused: let the later ones pass."""
        if seq_id >= self.next_seq and seq_id not in self._waiting:
            self._refused.add(seq_id)
            self._wake()

    def _wake(self) -> None:
        if self._runner is None or self._runner.done():
            self._runner = asyncio.create_task(self._run())

    def close(self, reason: str) -> None:
        """Let nothing more run; whoever waits is told ``reason``."""
        self._closed = reason
        for operation in [*self._waiting.values(), *self._unnumbered]:
            operation.promise.keep(Failed(reason, "server"))
        self._waiting.clear()
        self._unnumbered.clear()

    def _take(self) -> _Operation | None:
        while self.next_seq in self._refused and self.next_seq not in self._waiting:
            self.next_seq += 1
        operation = self._waiting.pop(self.next_seq, None)
        if operation is not None:
            self.next_seq += 1
            return operation
        return self._unnumbered.popleft() if self._unnumbered else None

    async def _run(self) -> None:
        while (operation := self._take()) is not None:
            self._keep(operation.promise, await outcome_of(operation.work))


async def outcome_of(work: Work) -> Result:
    """The work's result; whatever it raises becomes a failure, never a lost promise."""
    try:
        return await work()
    except OperationFailed as error:
        return Failed(error.message, error.fault_of)
    except Refused as error:
        return Failed(error.message, "user")
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}", "server")
