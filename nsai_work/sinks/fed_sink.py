"""A sink of a run, called in threads, one call after the other."""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from pydantic import JsonValue

from nsai_work.journal import SinkMark
from nsai_work.payloads import SinkSpec
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment
from nsai_work.sinks.registry import load_sink, require_packages
from nsai_work.telemetry.logs import get_logger

T = TypeVar("T")

log = get_logger(__name__)

CALL_LIMIT_S: Final = 60.0
"""The time after which a sink's call counts as hanging. The sink is then not called again."""


class SinkHangs(Exception):
    """A call of a sink does not return."""


class FedSink:
    """A sink of a run, with what is known of it. ``complete``: it has all points of a run that has ended."""

    def __init__(self, spec: SinkSpec, run: SinkRun) -> None:
        self.name = spec.sink
        self.mark = SinkMark()
        self.reason: str | None = None
        self.retry_at = 0.0
        self.dead = False
        self.complete = False
        self._spec = spec
        self._run = run
        self._sink: Sink | None = None
        self._segment: SinkSegment | None = None
        self._had = SinkProgress()
        self._keeps_after_s = 0.0
        self._running: asyncio.Future[Any] | None = None
        self._unkept: deque[tuple[float, SinkMark]] = deque()
        """The marks after writes that a death of this process would undo, with the times of these writes."""

    def state(self) -> dict[str, JsonValue]:
        """Return how far the sink is, and why it is not complete, for the job's result."""
        late = None if self.complete else "not everything was written in time"
        return {"step": self.mark.step, "segments": self.mark.segment, "error": self.reason or late}

    async def open(self, segment: SinkSegment) -> None:
        """Open the sink for a segment, unless it is open for it."""
        if self._segment == segment:
            return
        await self.close()
        self._sink = sink = await self._call(partial(_made, self._spec))
        self._keeps_after_s = sink.keeps_after_s
        self._had = await self._call(partial(sink.open, self._run, segment))
        self._segment = segment

    async def write(self, points: Sequence[Point]) -> None:
        """Write points, without those that the sink had when it was opened."""
        assert self._sink is not None
        had = self._had
        new = [point for point in points if point.step > (had.evaluated if point.is_evaluation else had.step)]
        if new:
            await self._call(partial(self._sink.write, new))

    async def close(self) -> bool:
        """Close the sink, if it is open. Returns whether all that was written is kept; an error is logged."""
        sink, self._sink, self._segment = self._sink, None, None
        if sink is None:
            return True
        try:
            await self._call(sink.close)
        except Exception as error:
            log.warning("sink.not_closed", sink=self.name, reason=str(error))
            return False
        return True

    def after(self, stored: SinkMark) -> SinkMark:
        """Return the mark after all that was written, given the one of the store."""
        return self._unkept[-1][1] if self._unkept else stored

    def wrote(self, mark: SinkMark, now: float) -> None:
        """Count a write."""
        self._unkept.append((now, mark))

    def kept(self, now: float) -> SinkMark | None:
        """Return the mark of the last write that this process's death would not undo, unless it was returned."""
        mark = None
        while self._unkept and self._unkept[0][0] + self._keeps_after_s <= now:
            mark = self._unkept.popleft()[1]
        return mark

    def forget(self) -> None:
        """Count the writes that are not kept as not written."""
        self._unkept.clear()

    async def _call(self, call: Callable[[], T]) -> T:
        """Call a blocking function in a thread, after the call before it, which its caller may have left."""
        if self._running is not None and not self._running.done():
            await self._ended(self._running)
        running = asyncio.ensure_future(asyncio.to_thread(call))
        self._running = running
        await self._ended(running)
        return running.result()

    async def _ended(self, running: "asyncio.Future[Any]") -> None:
        if self.dead:
            raise SinkHangs("an earlier call has not returned")
        # not wait_for: a cancelled call would still run in its thread
        done, _ = await asyncio.wait({running}, timeout=CALL_LIMIT_S)
        if not done:
            self.dead = True
            running.add_done_callback(lambda ended: ended.cancelled() or ended.exception())
            raise SinkHangs(f"its call has not returned in {CALL_LIMIT_S:g} s")


def _made(spec: SinkSpec) -> Sink:
    sink = load_sink(spec)
    require_packages(sink)
    return sink
