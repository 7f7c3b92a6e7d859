"""Telemetry: a structured event per job transition, hooks, and counts of training steps and waits.

Prompts, completions and payloads are never logged. A hook receives the same record as the log; an exception from a
hook is logged.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from nsai_work.telemetry.logs import get_logger, log_event

log = get_logger("nsai_work.jobs")
_logger = logging.getLogger("nsai_work.jobs")


@dataclass(frozen=True, slots=True)
class JobEvent:
    """An event of a job in this process. ``name`` is ``job.claimed``, ``job.succeeded``, ..."""

    name: str
    job_id: str
    kind: str
    backend: str
    fence: int
    attempt: int
    details: dict[str, JsonValue] = field(default_factory=dict)


JobHook = Callable[[JobEvent], None]
_hooks: list[JobHook] = []
_hooks_lock = threading.Lock()


def add_hook(hook: JobHook) -> Callable[[], None]:
    """Register a hook that is called with every later event of this process. Returns a function that removes it."""
    with _hooks_lock:
        _hooks.append(hook)

    def remove() -> None:
        with _hooks_lock:
            if hook in _hooks:
                _hooks.remove(hook)

    return remove


class LabelledCounts:
    """Counts of this process, by name and label. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, label: str, number: int = 1) -> None:
        """Add to the count of ``name`` with a label."""
        with self._lock:
            self._counts[name, label] += number

    def all(self) -> dict[tuple[str, str], int]:
        """Return the counts, by name and label."""
        with self._lock:
            return dict(self._counts)


training_counts: Final = LabelledCounts()
"""Training runs: ``steps`` that were recorded by kind (new, replayed, superseded), and ``resumes`` by how (warm,
restored, restarted) and by what was proven (exact, cold)."""

wait_counts: Final = LabelledCounts()
"""``attempts`` that wait now and show it, by cause."""

alert_counts: Final = LabelledCounts()
"""``alerts`` to the targets of this worker, by what became of a try: sent, delayed, given_up."""

_RESUMES: Final = {"resume.verified": "exact"} | {
    f"resume.{how}": how for how in ("cold", "restarted", "restored", "warm")
}


def emit(event: JobEvent) -> None:
    """Log an event and call the hooks with it. Never raises."""
    log_job_event(event)
    call_hooks(event)


def log_job_event(event: JobEvent) -> None:
    """Log an event of a job: at WARNING if its attempt ended badly, else at INFO."""
    level = logging.WARNING if event.name in _ENDED_BADLY else logging.INFO
    if _logger.isEnabledFor(level):
        fields = {
            "job_id": event.job_id,
            "kind": event.kind,
            "backend": event.backend,
            "fence": event.fence,
            "attempt": event.attempt,
            **event.details,
        }
        log_event(_logger, level, event.name, fields)


def call_hooks(event: JobEvent) -> None:
    """Call the hooks with an event. Never raises."""
    for hook in tuple(_hooks):
        try:
            hook(event)
        except Exception:
            log.exception("telemetry.hook_failed", event_name=event.name)


def log_entry(job_id: str, name: str, data: Mapping[str, JsonValue]) -> None:
    """Log an entry of a job's event log if it reports an incident (WARNING) or a recovery (INFO)."""
    if name in _RESUMES:
        training_counts.add("resumes", _RESUMES[name])
    family, _, event = name.partition("recovery.") if ".recovery." in name else ("", "", name)
    known = f"recovery.{event}" if family else event
    if known in _INCIDENTS:
        level = logging.WARNING
    elif known.startswith(("recovery.", "resume.", "wait.")):
        level = logging.INFO
    else:
        return
    if _logger.isEnabledFor(level):
        log.bind(**{**data, "job_id": job_id}).log(level, name)


_ENDED_BADLY: Final = frozenset({"job.failed", "job.timeout", "job.retried", "job.lost", "job.abandoned"})

_INCIDENTS: Final = frozenset(
    {
        "checkpoint.delete_failed",
        "checkpoint.metric_missing",
        "inference.incomplete",
        "recovery.callback_failed",
        "recovery.checkpoint_rejected",
        "recovery.detected",
        "recovery.exhausted",
        "recovery.failed",
        "recovery.poll_error",
        "resume.cold",
        "resume.restarted",
        "step.skipped",
        "training.incident",
        "training.truncated",
        "wait.started",
    }
)
