"""Async work for callers that block: loops are kept, and nothing of one piece of work is left for the next."""

import asyncio
import os
import threading

import pytest

from nsai_work.concurrency import coroutine_runner
from nsai_work.concurrency.coroutine_runner import MAX_IDLE_RUNNERS, run_blocking


async def loop_of_mine() -> asyncio.AbstractEventLoop:
    """The loop this runs on."""
    await asyncio.sleep(0)
    return asyncio.get_running_loop()


def test_a_loop_is_used_again() -> None:
    """Making one takes longer than most work that runs on it."""
    assert run_blocking(loop_of_mine()) is run_blocking(loop_of_mine())


def test_a_loop_that_failed_is_not_used_again() -> None:
    """Work that was under way may still be there."""
    first = run_blocking(loop_of_mine())

    async def fail() -> None:
        raise LookupError("on purpose")

    with pytest.raises(LookupError, match="on purpose"):
        run_blocking(fail())

    assert first.is_closed()
    assert not run_blocking(loop_of_mine()).is_closed()


def test_a_task_that_is_left_ends_with_its_loop() -> None:
    """It is cancelled, as ``asyncio.run`` would, and the next caller gets another loop."""
    ended: list[str] = []

    async def leave_a_task() -> "asyncio.Task[None]":
        async def go_on() -> None:
            try:
                await asyncio.Event().wait()
            finally:
                ended.append("cancelled")

        task = asyncio.create_task(go_on())
        await asyncio.sleep(0)
        return task

    task = run_blocking(leave_a_task())

    assert ended == ["cancelled"]
    assert task.get_loop().is_closed()


def test_inside_a_running_loop_it_works_too() -> None:
    """As in a notebook."""

    async def outer() -> bool:
        return run_blocking(loop_of_mine()) is not asyncio.get_running_loop()

    assert asyncio.run(outer())


def test_threads_do_not_share_a_loop_and_few_are_kept() -> None:
    """Each piece of work has a loop for itself while it runs."""
    together = threading.Barrier(MAX_IDLE_RUNNERS + 2)
    loops: list[asyncio.AbstractEventLoop] = []

    async def meet() -> None:
        loops.append(asyncio.get_running_loop())
        await asyncio.to_thread(together.wait, 30)

    threads = [threading.Thread(target=run_blocking, args=(meet(),)) for _ in range(together.parties)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(set(loops)) == together.parties
    assert sum(not loop.is_closed() for loop in loops) == len(coroutine_runner._idle) == MAX_IDLE_RUNNERS


def test_a_forked_process_has_loops_of_its_own() -> None:
    """And what it does with them leaves its parent's alone."""
    loop = run_blocking(loop_of_mine())
    child = os.fork()
    if child == 0:
        other = run_blocking(loop_of_mine())
        os._exit(0 if other is not loop else 1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0

    async def woken_by_a_thread() -> str:
        return await asyncio.wait_for(asyncio.to_thread(lambda: "woken"), 30)

    assert run_blocking(loop_of_mine()) is loop
    assert run_blocking(woken_by_a_thread()) == "woken"
