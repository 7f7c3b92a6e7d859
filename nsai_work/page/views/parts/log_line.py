"""The lines of logs: events as text, with the tone in which they are shown."""

from collections.abc import Sequence
from typing import Final

from crucible.values.scalars import Instant
from nsai_work.page.views.view import View
from nsai_work.presentation.event_text import describe_event
from nsai_work.store.records import EventRow

_TONES: Final = {
    "bold red": "bad",
    "red": "bad",
    "bold yellow": "warn",
    "yellow": "warn",
    "bold green": "ok",
    "green": "ok",
    "cyan": "mark",
    "dim": "quiet",
}

_TONES_BY_EVENT: Final = {"resume.warm": "warn", "evaluation": "plain"}
"""As the curve marks them."""


class LogLine(View):
    """An event as text. ``tone`` is bad, warn, ok, mark, plain or quiet, or empty."""

    seq: int
    at: Instant
    job_id: str
    event: str
    text: str
    tone: str


def log_lines(events: Sequence[EventRow]) -> list[LogLine]:
    """The lines of the events that have a text, the newest first."""
    lines = []
    for event in reversed(events):
        described = describe_event(event)
        if described is not None:
            tone = _TONES_BY_EVENT.get(event.name) or _TONES.get(described.style, "")
            lines.append(
                LogLine(
                    seq=event.seq,
                    at=event.at,
                    job_id=event.job_id,
                    event=event.name,
                    text=described.text,
                    tone=tone,
                )
            )
    return lines
