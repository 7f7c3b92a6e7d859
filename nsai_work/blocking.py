"""Async work for callers that block, whether or not an event loop runs in their thread."""

import asyncio
import atexit
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, Final, TypeVar

from crucible.forks import reset_after_fork

T = TypeVar("T")

MOST_KEPT: Final = 4

_kept: list[asyncio.Runner] = []


def run_blocking(work: Coroutine[Any, Any, T]) -> T:
    """The coroutine's result, from an event loop that nothing else uses meanwhile."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return _run(work)
    # called from async code (a notebook): a loop cannot run inside another
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: asyncio.run(work)).result()


def _run(work: Coroutine[Any, Any, T]) -> T:
    # to make a loop and to close it again takes longer than most work that is done here
    runner = _take()
    try:
        # its own run() would also change the handling of signals, each time
        loop = runner.get_loop()
        result = loop.run_until_complete(work)
        quiet = not asyncio.all_tasks(loop)
    except BaseException:
        runner.close()
        raise
    if quiet and len(_kept) < MOST_KEPT:
        _kept.append(runner)
    else:
        runner.close()
    return result


def _take() -> asyncio.Runner:
    _register_hooks()
    try:
        return _kept.pop()
    except IndexError:
        return asyncio.Runner(loop_factory=_make_loop)


@cache
def _register_hooks() -> None:
    atexit.register(_close_kept)
    reset_after_fork(_forget_kept)


def _close_kept() -> None:
    while _kept:
        _kept.pop().close()


def _forget_kept() -> None:
    _kept.clear()


def _make_loop() -> asyncio.AbstractEventLoop:
    # epoll is shared with the child of a fork, where the end of a loop would deafen its parent's
    selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
    return asyncio.SelectorEventLoop(selector())
