"""A thread for the file work of a batch, so that a slow disk delays no other job of the event loop."""

import asyncio
from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec, Self, TypeVar

from nsai_work.concurrency.io_threads import IoThreads

P = ParamSpec("P")
T = TypeVar("T")


class FileThread:
    """Runs blocking calls in a thread of its own, one after the other, in the order in which they were made."""

    def __init__(self) -> None:
        self._executor = IoThreads(1)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # without waiting: a hanging file system must not hold the event loop, nor the end of the process
        self._executor.shutdown(wait=False)

    async def run(self, call: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a call. It runs to its end even if the caller is canceled: an answer that was paid for is written."""
        future = asyncio.get_running_loop().run_in_executor(self._executor, lambda: call(*args, **kwargs))
        return await asyncio.shield(future)
