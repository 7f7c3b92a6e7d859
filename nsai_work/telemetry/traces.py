"""Traces: the W3C context that a job has from its submission, and the spans of submissions and attempts.

Only the OpenTelemetry API is used, so without an SDK in the process spans are no-ops. Attributes of messaging are
those of OpenTelemetry's semantic conventions. Prompts, completions and payloads are never in a span.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import SpanContext, TraceFlags
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from crucible import Completion, Prompt
from nsai_work.job import MAX_BAGGAGE, MAX_TRACESTATE, Job
from nsai_work.telemetry.logs import bind_job

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

_TRACE: Final = TraceContextTextMapPropagator()
_BAGGAGE: Final = W3CBaggagePropagator()


@dataclass(frozen=True, slots=True)
class SubmitTrace:
    """The trace context of a submission; empty if there is none."""

    traceparent: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    trace_flags: int | None = None
    tracestate: str | None = None
    baggage: str | None = None

    def mark(self, job: Job) -> Job:
        """Return the job with this trace set, unless the caller has set one."""
        if self.trace_id is None or job.trace_id is not None:
            return job
        return job.model_copy(
            update={
                "trace_id": self.trace_id,
                "span_id": self.span_id,
                "trace_flags": self.trace_flags,
                "tracestate": self.tracestate,
                "baggage": job.baggage or self.baggage,
            }
        )


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
    """Open the span of an attempt, in the trace of the job's submission and with its sampling decision."""
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
    with (
        _attached(parent),
        _tracer().start_as_current_span("nsai_work.work", kind=consumer, attributes=attributes) as span,
    ):
        context = span.get_span_context()
        bind_job(trace_id=trace.format_trace_id(context.trace_id) if context.is_valid else None)
        yield span


@contextmanager
def completion_span(backend: str, prompt: Prompt) -> "Iterator[Callable[[Completion], None]]":
    """Open the span of a completion of an inference job. The function that it yields records the answer's usage.

    Without a current trace nothing is opened.
    """
    if not trace.get_current_span().get_span_context().is_valid:
        yield lambda _: None
        return
    model = prompt.options.model
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": backend}
    if model is not None:
        attributes["gen_ai.request.model"] = model
    name = "chat" if model is None else f"chat {model}"
    client = trace.SpanKind.CLIENT
    with _tracer().start_as_current_span(name, kind=client, attributes=attributes) as span:
        yield partial(_record_completion, span)


def record_span(name: str, began_ns: int, attributes: Mapping[str, str | int]) -> None:
    """Record a piece of the current attempt that began then and ends now; nothing if the attempt is not traced."""
    if trace.get_current_span().is_recording():
        _tracer().start_span(name, start_time=began_ns, attributes=attributes).end()


@contextmanager
def recovery_span(resumes: bool) -> "Iterator[Callable[[Mapping[str, str | int]], None]]":
    """Open the span of entering a run again, the parent of its requests; without ``resumes`` nothing is opened. The
    function that it yields adds attributes."""
    if not resumes or not trace.get_current_span().is_recording():
        yield lambda _: None
        return
    with _tracer().start_as_current_span("nsai_work.recovery") as span:
        yield span.set_attributes


def _record_completion(span: "Span", completion: Completion) -> None:
    if not span.is_recording():
        return
    usage = completion.usage
    values: dict[str, str | int | list[str] | None] = {
        "gen_ai.response.model": completion.model,
        "gen_ai.response.id": completion.request_id,
        "gen_ai.response.finish_reasons": [
            str(choice.finish_reason) for choice in completion.choices if choice.finish_reason is not None
        ],
        "gen_ai.usage.input_tokens": usage.prompt_tokens if usage else None,
        "gen_ai.usage.output_tokens": usage.completion_tokens if usage else None,
    }
    span.set_attributes({name: value for name, value in values.items() if value is not None})


def span_reference(span: "Span") -> str | None:
    """The trace and span id of a recorded span as a W3C traceparent; None for a span that nobody records."""
    context = span.get_span_context()
    if not span.is_recording() or not context.is_valid:
        return None
    return _traceparent(context)


def add_link(span: "Span", reference: str) -> None:
    """Link a span to the span of a W3C traceparent, such as that of the attempt before."""
    context = trace.get_current_span(_TRACE.extract({"traceparent": reference}, Context())).get_span_context()
    if context.is_valid:
        span.add_link(context)


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
    # always in the W3C form, whichever propagators the process has: it is stored
    baggage: dict[str, str] = {}
    _BAGGAGE.inject(baggage)
    return SubmitTrace(
        traceparent=_traceparent(context),
        trace_id=trace.format_trace_id(context.trace_id),
        span_id=trace.format_span_id(context.span_id),
        trace_flags=int(context.trace_flags),
        tracestate=_within(context.trace_state.to_header(), MAX_TRACESTATE),
        baggage=_within(baggage.get("baggage", ""), MAX_BAGGAGE),
    )


def _within(header: str, limit: int) -> str | None:
    """The header, unless it is empty or longer than its specification allows."""
    return header if 0 < len(header) <= limit and header.isprintable() else None


def _traceparent(context: SpanContext) -> str:
    trace_id, span_id = trace.format_trace_id(context.trace_id), trace.format_span_id(context.span_id)
    return f"00-{trace_id}-{span_id}-{int(context.trace_flags):02x}"


@contextmanager
def _attached(parent: Context | None) -> Iterator[None]:
    """Make a context the current one, with its baggage; without one, a trace begins here."""
    token = attach(Context() if parent is None else parent)
    try:
        yield
    finally:
        detach(token)


def _parent(job: Job) -> Context | None:
    """The context of the submission. A job whose trace was set by hand without flags counts as sampled."""
    if job.trace_id is None or job.span_id is None:
        return None
    flags = TraceFlags.SAMPLED if job.trace_flags is None else job.trace_flags
    carrier = {"traceparent": f"00-{job.trace_id}-{job.span_id}-{flags:02x}"}
    if job.tracestate is not None:
        carrier["tracestate"] = job.tracestate
    context = _TRACE.extract(carrier)
    return context if job.baggage is None else _BAGGAGE.extract({"baggage": job.baggage}, context)
