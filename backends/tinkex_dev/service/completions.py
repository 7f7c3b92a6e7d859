"""Ended requests of each client of a sampling session, in the order in which they ended."""

import asyncio
from dataclasses import dataclass, field
from typing import Final

CLONE: Final = 1_000_000_000
"""The seq_ids of a client begin at its number in the sampling session times this."""
_MAX_EVENTS: Final = 50_000


@dataclass(frozen=True, slots=True)
class EndedRequest:
    """An ended request. ``cursor`` grows from one to the next."""

    cursor: int
    request_id: str
    failed: bool

    def body(self) -> dict[str, object]:
        """The form on the wire."""
        return {"state": "failed" if self.failed else "finished", "request_id": self.request_id}


@dataclass(slots=True)
class _Line:
    events: list[EndedRequest] = field(default_factory=list)
    count: int = 0
    news: asyncio.Event = field(default_factory=asyncio.Event)


class Completions:
    """The ended requests of all sampling sessions, by session and client."""

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], _Line] = {}
        self._clients: dict[str, int] = {}

    def join(self, sampler_id: str) -> int:
        """A number for one more client of a sampling session; the first client has 0."""
        self._clients[sampler_id] = self._clients.get(sampler_id, 0) + 1
        return self._clients[sampler_id]

    def add(self, sampler_id: str, seq_id: int, request_id: str, *, failed: bool) -> None:
        """Add a request that has ended, and wake those who wait."""
        line = self._lines.setdefault((sampler_id, seq_id // CLONE), _Line())
        line.count += 1
        line.events.append(EndedRequest(line.count, request_id, failed))
        del line.events[:-_MAX_EVENTS]
        line.news.set()
        line.news = asyncio.Event()

    async def after(self, sampler_id: str, client: int, cursor: int, timeout_s: float) -> list[EndedRequest]:
        """The requests that ended after ``cursor``; waits for one for ``timeout_s``. Earlier ones are forgotten."""
        line = self._lines.setdefault((sampler_id, client), _Line())
        line.events = [event for event in line.events if event.cursor > cursor]
        if not line.events:
            try:
                await asyncio.wait_for(line.news.wait(), timeout_s)
            except TimeoutError:
                return []
        return list(line.events)

    def end_session(self, session_id: str) -> None:
        """Forget the requests of a session."""
        for key in [key for key in self._lines if key[0].startswith(f"{session_id}:")]:
            del self._lines[key]
