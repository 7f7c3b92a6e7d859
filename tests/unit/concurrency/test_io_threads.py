"""Threads for calls that may hang: as many as asked for, and the end does not wait for ever."""

import asyncio
import threading

import pytest

from nsai_work.concurrency import io_threads
from nsai_work.concurrency.io_threads import IoThreads


def test_results_and_errors_reach_the_caller() -> None:
    """As from any executor. Calls that do not overlap share a thread."""

    async def scenario() -> None:
        asyncio.get_running_loop().set_default_executor(IoThreads(4))
        names = {await asyncio.to_thread(lambda: threading.current_thread().name) for _ in range(20)}
        assert names == {"nsai-work io 0"}
        with pytest.raises(ZeroDivisionError):
            await asyncio.to_thread(lambda: 1 // 0)

    asyncio.run(scenario())


def test_a_call_that_hangs_occupies_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others run, ``busy`` counts it, and the loop ends although it does not."""
    monkeypatch.setattr(io_threads, "SHUTDOWN_WAIT_S", 0.5)
    release = threading.Event()
    begun = threading.Barrier(3)
    threads = IoThreads(3)

    def hang() -> None:
        begun.wait()
        release.wait()

    async def scenario() -> list[int]:
        loop = asyncio.get_running_loop()
        loop.set_default_executor(threads)
        hanging = [loop.run_in_executor(None, hang) for _ in range(2)]
        begun.wait()
        results = await asyncio.gather(*(asyncio.to_thread(lambda number=number: number) for number in range(5)))
        for future in hanging:
            future.cancel()
        return results

    assert asyncio.run(scenario()) == [0, 1, 2, 3, 4]
    assert threads.busy == 2
    with pytest.raises(RuntimeError, match="after shutdown"):
        threads.submit(print)
    release.set()
