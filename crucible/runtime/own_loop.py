"""Event loops of code that is not ours, each in a thread of its own."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from typing import Any, Final, TypeVar

T = TypeVar("T")

ANSWERS_WITHIN_S: Final = 0.25
"""A loop whose call was given up, and which does not run a callback within this time, is blocked."""


class OwnLoop:
    """An event loop in a thread of its own, for coroutines that may block it: all else goes on meanwhile.

    A loop that has been blocked is left behind, with what runs there: later calls get a new one, and ``blockers``
    has the name of the call that blocked it. The threads are daemons, so the process ends without them.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._loop: asyncio.AbstractEventLoop | None = None
        self._given_up = False
        self._choosing = asyncio.Lock()
        self.blockers: set[str] = set()

    async def run(
        self,
        call: Callable[[], Coroutine[Any, Any, T]],
        *,
        name: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> T:
        """Run a coroutine there, and return its result; in a ``loop`` of an earlier call, if one is given.

        If the caller is canceled, so is the coroutine. Raises what the coroutine raises.
        """
        chosen = loop or await self.current()
        running = asyncio.run_coroutine_threadsafe(_begun(call, name), chosen)
        try:
            return await asyncio.wrap_future(running)
        except asyncio.CancelledError:
            self._given_up = True
            raise

    async def current(self) -> asyncio.AbstractEventLoop:
        """Return the loop that new calls run in."""
        async with self._choosing:
            if self._loop is not None and self._given_up:
                await self._leave_blocked(self._loop)
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_serve, args=(self._loop,), daemon=True, name=self._name).start()
            return self._loop

    def close(self) -> None:
        """Cancel what runs there, and end the loop. May be called twice."""
        loop, self._loop = self._loop, None
        if loop is not None:
            # one that is blocked, or has ended, is left behind
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(_end, loop)

    async def _leave_blocked(self, known: asyncio.AbstractEventLoop) -> None:
        self._given_up = False
        try:
            answers = await _answers(known)
        except asyncio.CancelledError:
            self._given_up = True
            raise
        if answers:
            return
        if (task := asyncio.current_task(known)) is not None:
            self.blockers.add(task.get_name())
        if self._loop is known:
            self._loop = None


async def _begun(call: Callable[[], Coroutine[Any, Any, T]], name: str) -> T:
    task = asyncio.current_task()
    assert task is not None
    task.set_name(name)
    # the call itself may block too
    return await call()


async def _answers(loop: asyncio.AbstractEventLoop) -> bool:
    answered: Future[None] = Future()
    loop.call_soon_threadsafe(_answer, answered)
    try:
        await asyncio.wait_for(asyncio.wrap_future(answered), ANSWERS_WITHIN_S)
    except TimeoutError:
        return False
    return True


def _answer(asked: Future[None]) -> None:
    if asked.set_running_or_notify_cancel():
        asked.set_result(None)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    ended = False
    while not ended:
        # a task that exits has the error itself: the others go on
        with contextlib.suppress(SystemExit, KeyboardInterrupt):
            loop.run_forever()
            ended = True
    loop.close()


def _end(loop: asyncio.AbstractEventLoop) -> None:
    tasks = asyncio.all_tasks(loop)
    for task in tasks:
        task.cancel()
    if not tasks:
        loop.stop()
        return
    ended = asyncio.gather(*tasks, return_exceptions=True)
    ended.add_done_callback(lambda _: loop.stop())
