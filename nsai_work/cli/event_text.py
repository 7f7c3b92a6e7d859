"""What an event means, in one line for a person. Steps have no line of their own: the bar shows them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nsai_work.store import EventRow


Data = Mapping[str, Any]
Line = Callable[[Data], "str | None"]


@dataclass(frozen=True, slots=True)
class Note:
    """A line for a person, with the rich style it is shown in."""

    text: str
    style: str = ""


def narrate(event: "EventRow") -> Note | None:
    """The line for an event; None for one that says nothing new to a person."""
    line, style = _LINES.get(_family(event.name), (None, ""))
    text = line(event.data) if line else None
    return Note(text, style) if text else None


def _family(name: str) -> str:
    """``tinkex.recovery.started`` and any other backend's are one: ``recovery.started``."""
    _, separator, rest = name.partition(".recovery.")
    return f"recovery.{rest}" if separator else name


def _because(data: Data) -> str:
    reason = data.get("reason") or data.get("message") or data.get("error")
    if isinstance(reason, Mapping):
        reason = reason.get("message")
    return f": {reason}" if reason else ""


def _running(data: Data) -> str:
    attempt = data.get("attempt", 1)
    return f"running, attempt {attempt}" if attempt != 1 else "running"


def _queued(data: Data) -> str | None:
    # the first time is not worth a line: everything is queued at some time
    if data.get("from") != "running":
        return None
    delay = data.get("delay_s")
    later = f" (again in {delay:.1f} s)" if isinstance(delay, int | float) and delay else ""
    return f"back in the queue{_because(data)}{later}"


def _checkpoint(data: Data) -> str:
    metric = data.get("metric")
    shown = f", loss {metric:.4f}" if isinstance(metric, int | float) else ""
    return f"checkpoint at step {data.get('step')}{shown}: {data.get('name')}"


def _lost(data: Data) -> str:
    return f"checkpoint {data.get('name')} does not count{_because(data)}"


def _restored(data: Data) -> str:
    return f"goes on from step {data.get('from_step')} in the new remote run {data.get('run_id')}"


def _warm(data: Data) -> str:
    return (
        f"took the live remote run over at step {data.get('step')}; {data.get('replayed', 0)} operations replayed"
    )


def _verified(data: Data) -> str:
    return f"the resume is exact: step {data.get('step')} has the loss it had before"


def _cold(data: Data) -> str:
    return (
        f"the resume is cold: the {data.get('missing')} did not come back (step {data.get('step')} has loss "
        f"{data.get('loss')}, before {data.get('expected_loss')})"
    )


def _incident(data: Data) -> str:
    return f"{data.get('error')} at step {data.get('step')}{_because(data)}"


def _attempt(data: Data) -> str | None:
    attempt = data.get("attempt")
    return f"recovery, attempt {attempt + 1}" if isinstance(attempt, int) and attempt else None


def _said(text: str) -> Line:
    return lambda data: text + _because(data)


_LINES: Final[dict[str, tuple[Line, str]]] = {
    "submit.unverified": (_said("accepted unchecked, its service could not be asked"), "yellow"),
    "job.queued": (_queued, "yellow"),
    "job.running": (_running, "dim"),
    "job.failed": (_said("failed"), "bold red"),
    "job.canceled": (_said("canceled"), "bold yellow"),
    "job.timeout": (_said("timed out"), "bold red"),
    "job.succeeded": (lambda data: "succeeded", "bold green"),
    "job.cancel_requested": (lambda data: "asked to stop", "yellow"),
    "resume.fresh": (lambda data: f"remote run {data.get('run_id')}", "dim"),
    "resume.warm": (_warm, "green"),
    "resume.restored": (_restored, "green"),
    "resume.verified": (_verified, "green"),
    "resume.cold": (_cold, "bold red"),
    "training.incident": (_incident, "bold red"),
    "step.skipped": (lambda data: f"step {data.get('step')} is left out: its batch poisons the run", "bold yellow"),
    "checkpoint.committed": (_checkpoint, "cyan"),
    "checkpoint.promoted": (lambda data: f"checkpoint {data.get('name')} is kept for good", "cyan"),
    "checkpoint.lost": (_lost, "yellow"),
    "recovery.detected": (_said("the run is corrupted"), "bold red"),
    "recovery.started": (_attempt, "yellow"),
    "recovery.checkpoint_selected": (lambda data: f"checkpoint selected: {data.get('path')}", "yellow"),
    "recovery.checkpoint_rejected": (lambda data: f"passed over {data.get('path')}{_because(data)}", "red"),
    "recovery.failed": (_said("an attempt to recover failed"), "red"),
    "recovery.exhausted": (_said("recovery gave up"), "bold red"),
}
