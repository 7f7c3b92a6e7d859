"""What an event means, in one line for a person. Steps have no line of their own: the bar shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nsai_work.cli.run_progress import JobEvent

Data = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Note:
    """A line for a person, with the rich style it is shown in."""

    text: str
    style: str = ""


def narrate(event: JobEvent) -> Note | None:
    """The line for an event; None for one that says nothing to a person."""
    known = _LINES.get(_family(event.name))
    return known(event.data) if known else None


def _family(name: str) -> str:
    """``tinkex.recovery.started`` and any other backend's are one: ``recovery.started``."""
    _, separator, rest = name.partition(".recovery.")
    return f"recovery.{rest}" if separator else name


def _reason(data: Data) -> str:
    reason = data.get("reason") or data.get("error") or data.get("message")
    if isinstance(reason, Mapping):
        reason = reason.get("message")
    return f": {reason}" if reason else ""


def _run_began(data: Data) -> Note | None:
    if data.get("generation", 1) == 1 and data.get("resume") in (None, "fresh"):
        return Note(f"remote run {data.get('run_id', '?')} began", "dim")
    where = f"from step {data.get('from_step')}"
    return Note(f"goes on {where} in remote run {data.get('run_id', '?')} ({data.get('resume')} resume)", "green")


def _checkpoint(data: Data) -> Note:
    metric = data.get("metric")
    shown = f", loss {metric:.4f}" if isinstance(metric, int | float) else ""
    return Note(f"checkpoint at step {data.get('step')}: {data.get('path') or data.get('name')}{shown}", "cyan")


def _plain(text: str, style: str) -> Callable[[Data], Note]:
    return lambda data: Note(text + _reason(data), style)


_LINES: dict[str, Callable[[Data], Note | None]] = {
    "run.began": _run_began,
    "checkpoint.committed": _checkpoint,
    "recovery.detected": _plain("the run is corrupted", "bold red"),
    "recovery.started": _plain("recovery begins", "yellow"),
}
