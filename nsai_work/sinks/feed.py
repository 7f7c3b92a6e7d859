"""Feeds a run's sinks from its journal while it is driven, and to the end before its result is made."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Final

from pydantic import JsonValue

from crucible.errors import CrucibleError
from nsai_work.errors import LeaseLost
from nsai_work.journal import EvaluationRecord, Journal, SinkMark, StepRecord
from nsai_work.payloads import SinkSpec
from nsai_work.sinks.contract import Point, SinkRun, SinkSegment
from nsai_work.sinks.fed_sink import FedSink, SinkHangs
from nsai_work.sinks.segments import advanced
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

BATCH: Final = 500
INTERVAL_S: Final = 1.0
RETRY_S: Final = 30.0
LAST_TRY_S: Final = 20.0
"""The time that all sinks together have at the end of a run."""
STOP_GRACE_S: Final = 3.0
MAX_REASON: Final = 500


class RunSinks:
    """The sinks of a run. ``monotonic`` counts seconds for retries."""

    def __init__(
        self, specs: Sequence[SinkSpec], run: SinkRun, journal: Journal, monotonic: Callable[[], float]
    ) -> None:
        self._journal = journal
        self._monotonic = monotonic
        self._stopping = asyncio.Event()
        self._fed = [FedSink(spec, run) for spec in specs]

    async def drive(self) -> None:
        """Write what is recorded, every second, until ``stop``, or until another worker owns the job."""
        while not self._stopping.is_set():
            await self._write_all(ended=False)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), INTERVAL_S)

    async def finish(self, driving: "asyncio.Future[None]") -> dict[str, JsonValue]:
        """Write what is left, try failed sinks once more, and return the fields of the job's result.

        Raises:
            LeaseLost: another worker owns the job.
        """
        self._stopping.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(LAST_TRY_S):
                # a write that was cut off here would be written twice
                await asyncio.shield(driving)
                for fed in self._fed:
                    fed.retry_at = 0.0
                await self._write_all(ended=True)
                for fed in self._fed:
                    fed.complete = await self._close(fed) and fed.complete
        return {"sinks": {fed.name: fed.state() for fed in self._fed}}

    async def close(self, driving: "asyncio.Future[None]") -> None:
        """Stop writing, within a few seconds, and close the sinks."""
        self._stopping.set()
        await asyncio.wait({driving}, timeout=STOP_GRACE_S)
        driving.cancel()
        await asyncio.gather(driving, return_exceptions=True)
        for fed in self._fed:
            # the job may have another owner by now
            with suppress(CrucibleError):
                await self._close(fed)

    async def _close(self, fed: FedSink) -> bool:
        """Close a sink, which then keeps what was written. Returns whether it does."""
        if not await fed.close():
            return False
        await self._count(fed, math.inf)
        return True

    async def _count(self, fed: FedSink, now: float) -> None:
        """Record what a sink keeps as written."""
        kept = fed.kept(now)
        if kept is not None:
            await self._journal.advance_sink(fed.name, kept)

    async def _write_all(self, *, ended: bool) -> None:
        for fed in self._fed:
            if fed.dead or self._monotonic() < fed.retry_at:
                continue
            try:
                await self._write(fed, ended=ended)
                fed.reason = None
            except LeaseLost:
                raise
            except Exception as error:
                await self._failed(fed, error)

    async def _write(self, fed: FedSink, *, ended: bool) -> None:
        fed.complete = False
        while True:
            await self._count(fed, self._monotonic())
            state = await self._journal.sink_state(fed.name)
            before = fed.after(state.mark)
            mark = advanced(before, state.runs, state.recorded, ended=ended)
            if mark is None:
                return
            steps, evaluations = await self._journal.after_mark(mark, BATCH)
            points, after = _points(mark, steps, evaluations)
            if not points and after == before:
                fed.mark, fed.complete = after, ended
                return
            if mark.segment != before.segment:
                await self._close(fed)
            await fed.open(SinkSegment(mark.segment, mark.from_step, mark.resume))
            if mark.segment != before.segment:
                await self._journal.event("sink.segment", _segment_data(fed.name, mark))
                await self._journal.advance_sink(fed.name, mark)
            await fed.write(points)
            fed.wrote(after, self._monotonic())
            await self._count(fed, self._monotonic())
            fed.mark = after

    async def _failed(self, fed: FedSink, error: Exception) -> None:
        known = isinstance(error, CrucibleError)
        text = error.message if isinstance(error, CrucibleError) else f"{type(error).__name__}: {error}"
        reason = text[:MAX_REASON]
        log.warning("sink.failed", sink=fed.name, reason=reason, exc_info=None if known else error)
        is_new, fed.reason = reason != fed.reason, reason
        fed.retry_at = self._monotonic() + RETRY_S
        fed.dead = fed.dead or isinstance(error, SinkHangs)
        await fed.close()
        fed.forget()
        if is_new:
            try:
                await self._journal.event("sink.failed", {"sink": fed.name, "reason": reason})
            except LeaseLost:
                raise
            except CrucibleError as failure:
                # the store is away; the run waits for it, and the result has the reason
                log.warning("sink.failure_not_recorded", sink=fed.name, reason=failure.message)


def _segment_data(name: str, mark: SinkMark) -> dict[str, JsonValue]:
    return {"sink": name, "segment": mark.segment, "from_step": mark.from_step, "resume": mark.resume.value}


def _points(
    mark: SinkMark, steps: Sequence[StepRecord], evaluations: Sequence[EvaluationRecord]
) -> tuple[list[Point], SinkMark]:
    """Return the points of these records in order, and the mark after them."""
    last = steps[-1].step if steps else mark.step
    # those of steps beyond this batch wait for the next one
    ready = [record for record in evaluations if record.step <= last]
    points = [Point(record.step, False, _metrics(record), record.recorded_at) for record in steps]
    points += [Point(record.step, True, dict(record.metrics), record.recorded_at) for record in ready]
    evaluated = max([mark.evaluated, *(record.step for record in ready)])
    points.sort(key=lambda point: (point.step, point.is_evaluation))
    return points, mark.model_copy(update={"step": last, "evaluated": evaluated})


def _metrics(record: StepRecord) -> Mapping[str, float]:
    own = {"loss": record.loss, "learning_rate": record.learning_rate}
    return {**record.metrics, **own, "tokens": record.tokens, "epoch": record.epoch}


@asynccontextmanager
async def fed_sinks(sinks: RunSinks) -> AsyncIterator[Callable[[], Awaitable[dict[str, JsonValue]]]]:
    """Drive sinks while the context is open, and close them at its end. Yields the function that finishes them.

    What is not written at the end, because the run was stopped, the next owner of the job writes.
    """
    driving = asyncio.ensure_future(sinks.drive())
    try:
        yield partial(sinks.finish, driving)
    finally:
        await sinks.close(driving)
