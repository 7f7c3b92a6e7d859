"""A function's run: the call, its translation of errors, and the thread in which it takes place."""

import asyncio
import contextlib
import inspect
import threading
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pydantic import JsonValue

from backends.python.catalog import Function
from backends.python.results import result_object
from crucible.backend import CommandProgress
from crucible.errors import Canceled, CommandFailed, CrucibleError
from nsai_work.functions import CancelFlag, Context

CANCEL_WAIT_S: Final = 4.0
"""A worker abandons a command that has not ended 5 s after it was cancelled."""


@dataclass(frozen=True, slots=True)
class Invocation:
    """A function's arguments, and the job that it runs for."""

    arguments: dict[str, JsonValue]
    job_id: str
    attempt: int
    folder: Path
    report: Callable[[CommandProgress], None]
    owned_for_s: Callable[[], float | None] = lambda: None
    cancel: CancelFlag = field(default_factory=CancelFlag)

    def run(self, function: Function) -> dict[str, JsonValue]:
        """Call the function in this thread, and return its result as JSON. An async function gets an event loop of
        its own, so that one that blocks delays no other job.

        Raises:
            InvalidRequest: an argument is invalid.
            MalformedAnswer: the result is not JSON.
            Exception: an error of the function.
        """
        context = Context(
            job_id=self.job_id, attempt=self.attempt, folder=self.folder, report=self.report, cancel=self.cancel
        )
        args, kwargs = function.signature.bind(self.arguments, context)
        value = function.call(*args, **kwargs)
        if inspect.isawaitable(value):
            value = asyncio.run(self._await(value))
        return result_object(value, self.folder)

    async def _await(self, value: Awaitable[object]) -> object:
        loop, task = asyncio.get_running_loop(), asyncio.ensure_future(value)

        def cancel() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(task.cancel)

        self.cancel.on_set(cancel)
        try:
            return await task
        except asyncio.CancelledError:
            if self.cancel.is_set():
                raise Canceled("the function was stopped") from None
            raise


@dataclass(frozen=True, slots=True)
class Raised:
    """An error of a function. ``traceback`` is for the log; it is empty if the error's own text may be shown."""

    error: CrucibleError
    traceback: str = ""


def outcome_of(invocation: Invocation, function: Function) -> dict[str, JsonValue] | Raised:
    """Run a function and return its result or its error. Raises nothing."""
    try:
        return invocation.run(function)
    except CrucibleError as error:
        # whose service failed is the function's affair: not a failure of this backend
        error.backend = error.backend or f"function {function.name}"
        return Raised(error)
    except BaseException as error:
        return Raised(_failed(function.name, error), "".join(traceback.format_exception(error)))


def _failed(name: str, error: BaseException) -> CommandFailed:
    frames = traceback.extract_tb(error.__traceback__)
    where = f" in {Path(frames[-1].filename).name}, line {frames[-1].lineno}" if frames else ""
    return CommandFailed(
        f"{name} raised {type(error).__name__}{where}; the worker's log has the traceback", backend="python"
    )


async def run_in_thread(invocation: Invocation, function: Function) -> dict[str, JsonValue] | Raised:
    """Run a function in a thread of its own, so that it blocks neither the event loop nor the pool of the
    store. If the task is cancelled, the function's flag is set, and it has ``CANCEL_WAIT_S`` to end."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[dict[str, JsonValue] | Raised] = loop.create_future()

    def deliver(outcome: dict[str, JsonValue] | Raised) -> None:
        if not future.done():
            future.set_result(outcome)

    def run() -> None:
        outcome = outcome_of(invocation, function)
        with contextlib.suppress(RuntimeError):  # the worker has ended meanwhile
            loop.call_soon_threadsafe(deliver, outcome)

    # a daemon: a function that ignores its flag must not keep the process alive
    threading.Thread(target=run, daemon=True, name=f"function {function.name}").start()
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        invocation.cancel.set()
        await asyncio.wait({future}, timeout=CANCEL_WAIT_S)
        raise
