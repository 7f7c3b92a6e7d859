"""Async work for callers that block, whether or not an event loop runs in their thread."""

import asyncio
import os
import selectors
from collections.abc import Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_KEPT: Final = 4

_kept: list[asyncio.Runner] = []
_kept_by: int = 0


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
        result = runner.run(work)
    except BaseException:
        # what was under way may still be there
        runner.close()
        raise
    _put_back(runner)
    return result


def _take() -> asyncio.Runner:
    global _kept, _kept_by
    if _kept_by != os.getpid():
        # made before a fork: they belong to the parent
        _kept, _kept_by = [], os.getpid()
    try:
        return _kept.pop()
    except IndexError:
        return asyncio.Runner(loop_factory=_make_loop)


def _make_loop() -> asyncio.AbstractEventLoop:
    # epoll is shared with the child of a fork, where the end of a loop would deafen its parent's
    selector = getattr(selectors, "PollSelector", selectors.SelectSelector)
    return asyncio.SelectorEventLoop(selector())


def _put_back(runner: asyncio.Runner) -> None:
    if len(_kept) < MOST_KEPT and not asyncio.all_tasks(runner.get_loop()):
        _kept.append(runner)
    else:
        runner.close()
