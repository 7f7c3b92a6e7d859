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


@asynccontextmanager
async def traced(claim: Claim, record: Callable[[Claim, str], Awaitable[str | None]]) -> AsyncIterator[None]:
    """Run an attempt in a span that is linked to the span of the attempt before.

    ``record`` stores a span's reference, and returns that of the attempt before. Spans that nobody exports are not
    recorded.
    """
    with attempt_span(claim.job, claim.fence) as span:
        reference = span_reference(span)
        if reference is None:
            yield
            return
        ended = asyncio.Event()
        linking = asyncio.create_task(_link(span, claim, reference, record, ended))
        succeeded = False
        try:
            yield
            succeeded = True
        finally:
            if succeeded and claim.fence == 1:
                linking.cancel()
            ended.set()
            await asyncio.gather(linking, return_exceptions=True)


async def _link(
    span: "Span",
    claim: Claim,
    reference: str,
    record: Callable[[Claim, str], Awaitable[str | None]],
    ended: asyncio.Event,
) -> None:
    if claim.fence == 1:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), DELAY_S)
    # a trace without its links is better than a failed job
    with contextlib.suppress(CrucibleError):
        before = await record(claim, reference)
        if before is not None:
            add_link(span, before)
