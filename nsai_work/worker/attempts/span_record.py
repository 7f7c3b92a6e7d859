"""The span of an attempt, recorded in the store so that the next attempt's span can be linked to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from crucible.errors import CrucibleError
from nsai_work.store.records import Claim
from nsai_work.telemetry.traces import add_link, attempt_span, span_reference

if TYPE_CHECKING:
    from opentelemetry.trace import Span

DELAY_S: Final = 0.2
"""The time after which a first attempt is recorded: one that succeeds sooner has no next, and costs no write."""

RecordSpan = Callable[[Claim, str], Awaitable[str | None]]


@asynccontextmanager
async def traced(claim: Claim, record: RecordSpan) -> AsyncIterator[None]:
    """Run an attempt in a span that is linked to the span of the attempt before.

    ``record`` stores a span's reference, and returns that of the attempt before. Spans that nobody exports are not
    recorded.
    """
    with attempt_span(claim.job, claim.fence) as span:
        if not span.is_recording():
            yield
            return
        link = _Link(span, claim, record)
        # a timer, since most attempts end before a task would have done anything
        timer = asyncio.get_running_loop().call_later(DELAY_S if claim.fence == 1 else 0, link.start)
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            timer.cancel()
            if not succeeded or claim.fence > 1:
                link.start()
            await link.end()


class _Link:
    """The record of an attempt's span, and its link to the one before."""

    def __init__(self, span: "Span", claim: Claim, record: RecordSpan) -> None:
        self._span = span
        self._claim = claim
        self._record = record
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to record the span, unless that has begun."""
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._make())

    async def end(self) -> None:
        """Wait until it is recorded, if that has begun."""
        if self._task is not None:
            await asyncio.gather(self._task, return_exceptions=True)

    async def _make(self) -> None:
        reference = span_reference(self._span)
        # a trace without its links is better than a failed job
        with contextlib.suppress(CrucibleError):
            before = None if reference is None else await self._record(self._claim, reference)
            if before is not None:
                add_link(self._span, before)
