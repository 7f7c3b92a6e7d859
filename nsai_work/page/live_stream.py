"""Live pages: a stream of server-sent events for each open one, made from the event rows of the store.

A change of the page is sent as HTML, and replaces what differs. Steps are sent as numbers (``curve``), for the
drawing in the browser; ``redraw`` asks it to read the curve again. ``away`` and ``back`` say whether the store
answers.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, Final

from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from crucible.errors import CrucibleError
from crucible.runtime.monotonic import monotonic
from nsai_work.errors import StoreUnavailable
from nsai_work.page.answers import Answers
from nsai_work.page.pages import Page
from nsai_work.page.renderer import compact_json
from nsai_work.page.views.job import JobQuery
from nsai_work.page.views.parts.curve_data import points_json
from nsai_work.page.views.view import View, parse_query
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.job_log import job_log, last_event
from nsai_work.store.queries.jobs import find, seq_of
from nsai_work.store.queries.loss_curve import last_step, points_after

MAX_STREAMS: Final = 100
STOP_WAIT_S: Final = 1.0
POLL_S: Final = 0.15
REFRESH_S: Final = 5.0
"""The interval at which a page is read again without any event: ages grow, and workers come and go."""

MIN_GAP_S: Final = 0.25
"""The least time between two changes of a page."""

MAX_POINTS: Final = 2_000
_REDRAWN_BY: Final = ("evaluation", "checkpoint.", "resume.", "run.")


@dataclass(slots=True)
class Streams:
    """The open streams of this server."""

    answers: Answers
    open: int = 0
    ending: asyncio.Event = field(default_factory=asyncio.Event)

    async def end(self) -> None:
        """End all streams: a server that stops would otherwise cancel them, and report each as an error."""
        self.ending.set()
        deadline = monotonic() + STOP_WAIT_S
        # none of them pauses while it ends
        while self.open and monotonic() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def pause(self, seconds: float) -> None:
        """Sleep, but no longer than the streams are open."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.ending.wait()

    async def serve(self, page: Page, request: Request) -> Response:
        """Answer with the stream of a page. Raises as the page's ``read``."""
        query = parse_query(page.query, request.query_params)
        if self.open >= MAX_STREAMS:
            return PlainTextResponse(f"{MAX_STREAMS} pages are open already\n", 503)
        # an address that leads nowhere is an error; a store that is away is news of the stream
        with contextlib.suppress(StoreUnavailable):
            await self.answers.reader.read(lambda tx: page.read_live(tx, query))
        stream = _PageStream(self, page, request, query)
        return StreamingResponse(
            stream.messages(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}
        )


@dataclass(slots=True)
class _PageStream:
    streams: Streams
    page: Page
    request: Request
    query: Any
    curve: "_CurveFollower | None" = None
    _html: str = ""
    _is_away: bool = False

    async def messages(self) -> AsyncIterator[str]:
        """The events of the stream; the server ends it when the reader leaves."""
        if isinstance(self.query, JobQuery):
            self.curve = _CurveFollower(self.query.id)
        self.streams.open += 1
        try:
            while not self.streams.ending.is_set():
                try:
                    for message in await self._changes():
                        yield message
                    await self._next_event()
                except StoreUnavailable as error:
                    if not self._is_away:
                        self._is_away = True
                        yield message_of("away", compact_json({"message": error.message}))
                    await self.streams.pause(1.0)
                except CrucibleError as error:
                    yield message_of("away", compact_json({"message": error.message}))
                    return
        finally:
            self.streams.open -= 1

    async def _changes(self) -> list[str]:
        view, curve = await self.streams.answers.reader.read(self._read)
        found = [message_of(name, compact_json(data)) for name, data in curve]
        html = self.streams.answers.main(self.page, self.request, view)
        if html != self._html:
            found.append(message_of("", html))
            self._html = html
        if self._is_away:
            self._is_away = False
            found.insert(0, message_of("back", "{}"))
        # a comment: only by writing does a server notice that the reader has left
        return found or [": nothing new\n\n"]

    def _read(self, tx: Tx) -> tuple[View, list[tuple[str, Any]]]:
        view = self.page.read_live(tx, self.query)
        return view, [] if self.curve is None else self.curve.news(tx)

    async def _next_event(self) -> None:
        """Wait for the next event of the job, or of any, or until the page is due anyway."""
        seen = await self._last_event()
        due = monotonic() + REFRESH_S
        await self.streams.pause(MIN_GAP_S)
        while await self._last_event() == seen and monotonic() < due and not self.streams.ending.is_set():
            await self.streams.pause(POLL_S)

    async def _last_event(self) -> int:
        job_id = None if self.curve is None else self.curve.job_id

        def read(tx: Tx) -> int:
            return last_event(tx, None if job_id is None else seq_of(tx, job_id))

        return await self.streams.answers.reader.read(read)


@dataclass(slots=True)
class _CurveFollower:
    """Finds what is new of a curve since the last look: steps, and events that change what was drawn."""

    job_id: str
    _step: int | None = None
    _event: int = 0

    def news(self, tx: Tx) -> list[tuple[str, Any]]:
        if self._step is None:
            self.job_id = find(tx, self.job_id).id
        seq = seq_of(tx, self.job_id)
        log = job_log(tx, seq, limit=50)
        changed = any(event.seq > self._event and event.name.startswith(_REDRAWN_BY) for event in log)
        is_first = self._step is None
        points = points_after(tx, seq, self._step or 0, limit=MAX_POINTS) if not is_first else []
        self._event = log[-1].seq if log else 0
        newest = last_step(tx, seq)
        # the steps that a restore made void come again with numbers that were seen
        went_back = not is_first and newest < (self._step or 0)
        self._step = newest
        if is_first or changed or went_back or len(points) == MAX_POINTS:
            return [("redraw", {"step": newest})]
        return [("curve", points_json(points))] if points else []


def message_of(event: str, data: str) -> str:
    """A server-sent event; without a name, its data replaces the page's main part."""
    lines = "".join(f"data: {line}\n" for line in data.splitlines())
    return f"{f'event: {event}{chr(10)}' if event else ''}{lines}\n"
