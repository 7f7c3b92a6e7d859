"""Text of job events for ``watch`` and ``run``: one line per event. Steps have no line; the progress bar shows
them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from nsai_work.store import EventRow

Data = Mapping[str, Any]
Formatter = Callable[[Data], "str | None"]


@dataclass(frozen=True, slots=True)
class EventText:
    """A line of text with its rich style."""

    text: str
    style: str = ""


def describe_event(event: "EventRow") -> EventText | None:
    """Return the line for an event, or None if the event has none."""
    formatter, style = _FORMATTERS.get(_without_backend(event.name), (None, ""))
    text = formatter(event.data) if formatter else None
    return EventText(text, style) if text else None


def has_text(name: str) -> bool:
    """Return whether events of this name have a line."""
    return _without_backend(name) in _FORMATTERS


def _without_backend(name: str) -> str:
    """Strip the backend from the name of a recovery event: ``tinkex.recovery.started`` is ``recovery.started``."""
    _, separator, event = name.partition(".recovery.")
    return f"recovery.{event}" if separator else name


def _reason(data: Data) -> str:
    reason = data.get("reason") or data.get("message") or data.get("error")
    if isinstance(reason, Mapping):
        reason = reason.get("message")
    return f": {reason}" if reason else ""


def _evaluation(data: Data) -> str:
    metrics = data.get("metrics") or {}
    values = ", ".join(f"{name} {value:.4f}" for name, value in sorted(metrics.items()))
    return f"evaluation at step {data.get('step')}: {values}"


def _with_reason(text: str) -> Formatter:
    return lambda data: text + _reason(data)


def _running(data: Data) -> str:
    attempt = data.get("attempt", 1)
    return f"running, attempt {attempt}" if attempt != 1 else "running"


def _queued(data: Data) -> str | None:
    # every job is queued once before it runs: only a requeue is news
    if data.get("from") != "running":
        return None
    delay = data.get("delay_s")
    delayed = f" (next attempt in {delay:.1f} s)" if isinstance(delay, int | float) and delay else ""
    return f"back in the queue{_reason(data)}{delayed}"


def _checkpoint(data: Data) -> str:
    metric = data.get("metric")
    # what the policy compares: the loss, or another metric
    compared = f", metric {metric:.4f}" if isinstance(metric, int | float) else ""
    return f"checkpoint at step {data.get('step')}{compared}: {data.get('name')}"


def _lost(data: Data) -> str:
    return f"checkpoint {data.get('name')} is lost{_reason(data)}"


def _restored(data: Data) -> str:
    return f"resumed from step {data.get('from_step')} in new remote run {data.get('run_id')}"


def _restarted(data: Data) -> str:
    return f"restarted at step 0, {data.get('lost_steps')} steps are lost{_reason(data)}"


def _warm(data: Data) -> str:
    return (
        f"took over the live remote run at step {data.get('step')}; {data.get('replayed', 0)} operations replayed"
    )


def _verified(data: Data) -> str:
    return f"exact resume: step {data.get('step')} has the same loss as before"


def _cold(data: Data) -> str:
    return (
        f"cold resume: {data.get('missing')} not restored (step {data.get('step')} has loss {data.get('loss')}, "
        f"before: {data.get('expected_loss')})"
    )


def _progress(data: Data) -> str | None:
    done, total = data.get("done"), data.get("total")
    count = f"{done:g} of {total:g}" if done is not None and total else f"{done:g}" if done is not None else ""
    return ": ".join(filter(None, (count, data.get("message")))) or None


def _names(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else ""


def _truncated(data: Data) -> str:
    return f"{data.get('rows')} of {data.get('of')} examples are cut after {data.get('max_tokens')} tokens"


def _rows(what: str) -> Formatter:
    return lambda data: f"{data.get('rows')} of {data.get('of')} rows {what}"


def _rollouts_failed(data: Data) -> str:
    return f"{data.get('rollouts')} of {data.get('of')} rollouts of step {data.get('step')} failed{_reason(data)}"


def _incident(data: Data) -> str:
    return f"{data.get('error')} at step {data.get('step')}{_reason(data)}"


def _recovery_attempt(data: Data) -> str | None:
    attempt = data.get("attempt")
    return f"recovery attempt {attempt + 1}" if isinstance(attempt, int) and attempt else None


def _incomplete(data: Data) -> str:
    reasons = data.get("finish_reasons")
    named = ", ".join(f"{count} {name}" for name, count in reasons.items()) if isinstance(reasons, Mapping) else ""
    return f"not all of {data.get('answers')} answers are complete: {named}"


_FORMATTERS: Final[dict[str, tuple[Formatter, str]]] = {
    "submit.unverified": (_with_reason("accepted, but not validated by the service"), "yellow"),
    "job.queued": (_queued, "yellow"),
    "job.waiting": (_with_reason("waiting"), "dim"),
    "job.running": (_running, "dim"),
    "job.failed": (_with_reason("failed"), "bold red"),
    "job.canceled": (_with_reason("canceled"), "bold yellow"),
    "job.timeout": (_with_reason("timed out"), "bold red"),
    "job.succeeded": (lambda data: "succeeded", "bold green"),
    "job.cancel_requested": (lambda data: "cancel requested", "yellow"),
    "wait.started": (_with_reason("waiting"), "yellow"),
    "wait.ended": (lambda data: "goes on", "dim"),
    "resume.fresh": (lambda data: f"remote run {data.get('run_id')}", "dim"),
    "resume.warm": (_warm, "green"),
    "resume.restored": (_restored, "green"),
    "resume.restarted": (_restarted, "bold yellow"),
    "resume.verified": (_verified, "green"),
    "resume.cold": (_cold, "bold red"),
    "command.progress": (_progress, "dim"),
    "inference.incomplete": (_incomplete, "yellow"),
    "training.incident": (_incident, "bold red"),
    "training.truncated": (_truncated, "yellow"),
    "training.rows_skipped": (_rows("are too long and left out"), "yellow"),
    "training.bad_rows": (_rows("cannot be used and are left out"), "yellow"),
    "training.rows_split": (_rows("became an example for each assistant turn, as the template needs"), "dim"),
    "training.overlap": (_rows("of the evaluation are trained on too"), "yellow"),
    "training.fields_unused": (lambda data: f"fields without effect: {_names(data.get('fields'))}", "dim"),
    "training.rollouts_failed": (_rollouts_failed, "yellow"),
    "training.reference": (
        lambda data: f"reference {data.get('reference')}: log-probabilities of {data.get('pairs')} pairs are kept",
        "dim",
    ),
    "step.skipped": (lambda data: f"step {data.get('step')} skipped: its batch corrupts the run", "bold yellow"),
    "evaluation": (_evaluation, "cyan"),
    "evaluation.differs": (
        lambda data: f"the evaluation at step {data.get('step')} differs from that before the restore",
        "bold red",
    ),
    "checkpoint.committed": (_checkpoint, "cyan"),
    "checkpoint.metric_missing": (
        lambda data: f"the service sends no metric {data.get('metric')}: no checkpoint can be the best by it",
        "yellow",
    ),
    "checkpoint.sampler_saved": (
        lambda data: f"checkpoint {data.get('name')} saved for sampling: {data.get('path')}",
        "cyan",
    ),
    "checkpoint.promoted": (lambda data: f"checkpoint {data.get('name')} promoted: kept permanently", "cyan"),
    "checkpoint.lost": (_lost, "yellow"),
    "checkpoint.delete_failed": (
        lambda data: f"the service did not delete checkpoint {data.get('name')}{_reason(data)}",
        "yellow",
    ),
    "sink.failed": (lambda data: f"sink {data.get('sink')} fails{_reason(data)}", "yellow"),
    "alert.given_up": (lambda data: f"{data.get('target')} refused the alert about this{_reason(data)}", "yellow"),
    "recovery.detected": (_with_reason("the run is corrupted"), "bold red"),
    "recovery.started": (_recovery_attempt, "yellow"),
    "recovery.checkpoint_selected": (lambda data: f"checkpoint selected: {data.get('path')}", "yellow"),
    "recovery.checkpoint_rejected": (lambda data: f"checkpoint rejected: {data.get('path')}{_reason(data)}", "red"),
    "recovery.failed": (_with_reason("recovery attempt failed"), "red"),
    "recovery.exhausted": (_with_reason("recovery failed, no attempts left"), "bold red"),
}
