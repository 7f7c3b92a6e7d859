"""Event loops of code that is not ours: what it does to its loop is its own matter."""

import asyncio
import threading

import pytest

from crucible.runtime.own_loop import OwnLoop


async def one() -> int:
    """A call that is done at once."""
    return 1


def test_calls_share_a_loop_in_a_thread_of_its_own() -> None:
    """Their results and errors are those of the call."""

    async def place() -> tuple[int, int]:
        return threading.get_ident(), id(asyncio.get_running_loop())

    async def fails() -> None:
        raise ValueError("x")

    async def body() -> None:
        own = OwnLoop("test")
        first, second = await own.run(place), await own.run(place)
        assert first == second
        assert first[0] != threading.get_ident()
        with pytest.raises(ValueError, match="x"):
            await own.run(fails)
        own.close()
        own.close()

    asyncio.run(body())


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError(), StopIteration()])
def test_what_ends_a_loop_ends_its_call_alone(error: BaseException) -> None:
    """Later calls run in the same loop."""

    async def exits() -> None:
        raise error

    async def body() -> BaseException:
        own = OwnLoop("test")
        loop = await own.current()
        try:
            await own.run(exits)
        except BaseException as found:
            assert await own.run(one) == 1
            assert await own.current() is loop
            own.close()
            return found
        raise AssertionError("nothing was raised")

    assert isinstance(asyncio.run(body()), type(error) if not isinstance(error, StopIteration) else RuntimeError)


def test_a_canceled_call_is_canceled_there() -> None:
    """And its loop serves the others on."""
    canceled = threading.Event()

    async def hangs() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            canceled.set()

    async def body() -> None:
        own = OwnLoop("test")
        loop = await own.current()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await own.run(hangs, name="hangs")
        assert await asyncio.to_thread(canceled.wait, 10)
        assert await own.run(one) == 1
        assert await own.current() is loop
        assert own.blockers == set()
        own.close()

    asyncio.run(body())


def test_a_blocked_loop_is_left_behind() -> None:
    """Later calls get another, and the call that blocked it is known by its name."""
    blocked, free = threading.Event(), threading.Event()

    async def blocks() -> None:
        blocked.set()
        free.wait()

    async def body() -> None:
        own = OwnLoop("test")
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await asyncio.gather(own.run(blocks, name="seven"), own.run(one, name="eight"))
        assert await asyncio.to_thread(blocked.wait, 10)
        assert await own.run(one) == 1
        assert own.blockers == {"seven"}
        free.set()
        own.close()

    asyncio.run(body())


def test_no_later_call_gets_a_blocked_loop(caplog: pytest.LogCaptureFixture) -> None:
    """However many ask at a time, and whether or not the first of them is canceled while it finds out. It logs
    nothing once it is free again."""
    blocked, free = threading.Event(), threading.Event()

    async def blocks() -> None:
        blocked.set()
        free.wait()

    async def body() -> None:
        own = OwnLoop("test")
        loop = await own.current()
        given_up = asyncio.create_task(own.run(blocks))
        assert await asyncio.to_thread(blocked.wait, 10)
        given_up.cancel()
        await asyncio.wait([given_up])
        first = asyncio.create_task(own.run(one))
        await asyncio.sleep(0.01)
        first.cancel()
        await asyncio.wait([first])
        try:
            async with asyncio.timeout(5):
                assert await asyncio.gather(*(own.run(one) for _ in range(3))) == [1, 1, 1]
        finally:
            free.set()
            own.close()
        await own.run(one, loop=loop)

    asyncio.run(body())
    assert caplog.records == []
