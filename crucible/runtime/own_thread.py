"""Blocking calls of code that may hang, each in a thread of its own."""

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_own_thread(call: Callable[[], T]) -> T:
    """Call a function in a new thread, and return its result; for code that is not ours.

    A call that hangs for ever takes up no thread of the event loop's executor, and the process ends without it.
    If the caller is canceled, the call runs on, and its outcome is dropped. Raises what the call raises.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[T] = loop.create_future()

    def returned(value: T) -> None:
        if not outcome.done():
            outcome.set_result(value)

    def failed(error: BaseException) -> None:
        if not outcome.done():
            # a future cannot raise StopIteration
            outcome.set_exception(RuntimeError(repr(error)) if isinstance(error, StopIteration) else error)

    def run() -> None:
        # the loop is closed if the process is about to end
        with contextlib.suppress(RuntimeError):
            try:
                value = context.run(call)
            except BaseException as error:
                loop.call_soon_threadsafe(failed, error)
            else:
                loop.call_soon_threadsafe(returned, value)

    context = contextvars.copy_context()
    threading.Thread(target=run, daemon=True, name="crucible own thread").start()
    return await outcome
