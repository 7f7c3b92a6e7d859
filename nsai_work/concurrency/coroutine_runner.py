"""Runs coroutines for blocking callers, whether or not an event loop runs in their thread."""

import asyncio
import atexit
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final, TypeVar

from crucible.runtime.forks import reset_after_fork
from crucible.runtime.monotonic import monotonic, new_event_loop

T = TypeVar("T")

MAX_IDLE_RUNNERS: Final = 4

_idle: list[asyncio.Runner] = []


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine to completion on an event loop of its own, and return its result."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    # called from async code (a notebook): a loop cannot run inside another loop
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(_run_in_new_loop, work).result()


def _run_in_new_loop(work: Coroutine[Any, Any, T]) -> T:
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(work)


def _run(work: Coroutine[Any, Any, T]) -> T:
    # creating and closing a loop takes longer than most coroutines run here
    runner = _acquire()
    try:
        # Runner.run() would also change signal handling each time
        loop = runner.get_loop()
        result = loop.run_until_complete(work)
        quiet = not asyncio.all_tasks(loop)
    except BaseException:
        _end_others(runner.get_loop())
        runner.close()
        raise
    if quiet and len(_idle) < MAX_IDLE_RUNNERS:
        _idle.append(runner)
    else:
        runner.close()
    return result


def _end_others(loop: asyncio.AbstractEventLoop) -> None:
    """Cancel the tasks that a failed coroutine has left. The runner would print what they raise."""
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()

    async def wait_for_end() -> None:
        await asyncio.gather(*tasks, return_exceptions=True)

    if tasks:
        loop.run_until_complete(wait_for_end())


def _acquire() -> asyncio.Runner:
    _register_hooks()
    try:
        return _idle.pop()
    except IndexError:
        return asyncio.Runner(loop_factory=_make_loop)


@cache
def _register_hooks() -> None:
    atexit.register(_close_idle)
    reset_after_fork(_forget_idle)


def _close_idle() -> None:
    while _idle:
        _idle.pop().close()


def _forget_idle() -> None:
    _idle.clear()


def _make_loop() -> asyncio.AbstractEventLoop:
    # a forked child shares the epoll instance, and closing its loop would unregister the parent's descriptors
    selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
    loop = asyncio.SelectorEventLoop(selector())
    loop.time = monotonic  # type: ignore[method-assign]
    return loop
