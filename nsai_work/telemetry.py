"""Telemetry: a structured event per job transition, hooks, and OpenTelemetry spans.

Only the OpenTelemetry API is used, so without an SDK in the process spans are no-ops. Prompts, completions and
payloads are never logged. A hook receives the same record as the log; an exception from a hook is logged.
"""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.propagate import extract, inject
from pydantic import JsonValue

from nsai_work.job import Job
from nsai_work.logs import bind_job, get_logger

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

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


class TrainingCounts:
    """Counts of this process's training runs: recorded steps by kind (new, replayed, superseded) and resumes by how
    (warm, restored, restarted) and by what was proven (exact, cold). Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, name: str, label: str, number: int = 1) -> None:
        """Add to the count of ``name`` (``steps`` or ``resumes``) with a label."""
        with self._lock:
            self._counts[name, label] += number

    def all(self) -> dict[tuple[str, str], int]:
        """Return the counts, by name and label."""
        with self._lock:
            return dict(self._counts)


training_counts: Final = TrainingCounts()

_RESUMES: Final = {"resume.verified": "exact"} | {
    f"resume.{how}": how for how in ("cold", "restarted", "restored", "warm")
}


def emit(event: JobEvent) -> None:
    """Log an event and call the hooks with it. Never raises."""
    level = logging.WARNING if event.name in _ENDED_BADLY else logging.INFO
    # structlog formats an entry before the level of the standard logger drops it
    if _logger.isEnabledFor(level):
        log.log(
            level,
            event.name,
            job_id=event.job_id,
            kind=event.kind,
            backend=event.backend,
            fence=event.fence,
            attempt=event.attempt,
            **event.details,
        )
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


@dataclass(frozen=True, slots=True)
class SubmitTrace:
    """The trace context of a submission; empty if there is none."""

    traceparent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None

    def mark(self, job: Job) -> Job:
        """Return the job with this trace set, unless the caller has set one."""
        if self.trace_id is None or job.trace_id is not None:
            return job
        return job.model_copy(update={"trace_id": self.trace_id, "span_id": self.span_id})


@contextmanager
def submit_span(count: int) -> Iterator[SubmitTrace]:
    """Open the span of a submission of ``count`` jobs."""
    if _tracing_disabled():
        yield SubmitTrace()
        return
    attributes: dict[str, str | int] = {
        "messaging.system": "nsai_work",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
        "messaging.batch.message_count": count,
        "nsai_work.jobs": count,
    }
    producer = trace.SpanKind.PRODUCER
    with _tracer().start_as_current_span("nsai_work.submit", kind=producer, attributes=attributes) as span:
        yield _submit_trace(span)


@contextmanager
def attempt_span(job: Job, fence: int) -> "Iterator[Span]":
    """Open the span of an attempt, in the trace of the job's submission."""
    parent = _parent(job)
    if parent is None and _tracing_disabled():
        yield trace.INVALID_SPAN
        return
    attributes: dict[str, str | int] = {
        "messaging.system": "nsai_work",
        "messaging.operation.name": "work",
        "messaging.operation.type": "process",
        "messaging.message.id": job.id,
        "nsai_work.job_id": job.id,
        "nsai_work.kind": str(job.kind),
        "nsai_work.backend": job.backend,
        "nsai_work.fence": fence,
    }
    consumer = trace.SpanKind.CONSUMER
    with _tracer().start_as_current_span(
        "nsai_work.work", context=parent, kind=consumer, attributes=attributes
    ) as span:
        context = span.get_span_context()
        bind_job(trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else None)
        yield span


def _tracing_disabled() -> bool:
    """Return whether this process has neither an SDK nor a current trace."""
    unset = isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)
    return unset and not trace.get_current_span().get_span_context().is_valid


def _tracer() -> "Tracer":
    return trace.get_tracer("nsai_work")


def _submit_trace(span: "Span") -> SubmitTrace:
    context = span.get_span_context()
    if not context.is_valid:
        return SubmitTrace()
    carrier: dict[str, str] = {}
    inject(carrier)
    return SubmitTrace(
        traceparent=carrier.get("traceparent"),
        trace_id=trace.format_trace_id(context.trace_id),
        span_id=trace.format_span_id(context.span_id),
    )


def _parent(job: Job) -> Context | None:
    if job.trace_id is None or job.span_id is None:
        return None
    return extract({"traceparent": f"00-{job.trace_id}-{job.span_id}-01"})
