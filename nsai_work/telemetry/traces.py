"""Traces: the W3C context that a job has from its submission, and the spans of submissions and attempts.

Only the OpenTelemetry API is used, so without an SDK in the process spans are no-ops. Attributes of messaging are
those of OpenTelemetry's semantic conventions. Prompts, completions and payloads are never in a span.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Final

from opentelemetry import trace
from opentelemetry.baggage.propagation import W3CBaggagePropagator
from opentelemetry.context import Context, attach, detach
from opentelemetry.trace import SpanContext, TraceFlags, TraceState
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from crucible import Completion, Prompt
from crucible.errors import CrucibleError
from nsai_work.job import MAX_BAGGAGE, MAX_TRACESTATE, Job
from nsai_work.telemetry.logs import bind_job

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer, TracerProvider

_TRACE: Final = TraceContextTextMapPropagator()
_IDS: Final = re.compile("[0-9a-f]{32}-[0-9a-f]{16}")
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
def submit_span(jobs: Sequence[Job]) -> Iterator[SubmitTrace]:
    """Open the span of a submission of these jobs; none in a trace that the caller has sampled out."""
    current = trace.get_current_span().get_span_context()
    if current.is_valid and not current.trace_flags.sampled:
        yield _submit_trace(current)
        return
    if _without_sdk():
        # a caller without an SDK may have extracted a context by hand
        yield _submit_trace(current)
        return
    attributes: dict[str, str | int] = {
        "messaging.system": "nsai_work",
        "messaging.operation.name": "submit",
        "messaging.operation.type": "send",
    }
    # for a single message, the conventions have no count
    if len(jobs) == 1:
        attributes["messaging.message.id"] = jobs[0].id
    else:
        attributes["messaging.batch.message_count"] = len(jobs)
    producer = trace.SpanKind.PRODUCER
    with _current(_tracer().start_span("nsai_work.submit", kind=producer, attributes=attributes)) as span:
        yield _submit_trace(span.get_span_context())


@contextmanager
def attempt_span(job: Job, fence: int) -> "Iterator[Span]":
    """Open the span of an attempt, in the trace of the job's submission and with its sampling decision.

    The tracer is not asked about one that is sampled out.
    """
    submission = _submission(job)
    unset = _without_sdk()
    if submission is None and unset:
        yield trace.INVALID_SPAN
        return
    outside = Context() if job.baggage is None else _BAGGAGE.extract({"baggage": job.baggage}, Context())
    if submission is not None:
        caller = trace.NonRecordingSpan(submission)
        outside = trace.set_span_in_context(caller, outside)
        if unset or not submission.trace_flags.sampled:
            with _attached(outside):
                yield caller
            return
    attributes: dict[str, str | int] = {
        "messaging.system": "nsai_work",
        "messaging.operation.name": "work",
        "messaging.operation.type": "process",
        "messaging.message.id": job.id,
        "nsai_work.kind": str(job.kind),
        "nsai_work.backend": job.backend,
        "nsai_work.fence": fence,
    }
    span = _tracer().start_span("nsai_work.work", outside, trace.SpanKind.CONSUMER, attributes)
    with _current(span, outside):
        if submission is None and span.is_recording():
            # the trace begins here; another is bound with the job's id already
            bind_job(trace_id=trace.format_trace_id(span.get_span_context().trace_id))
        yield span


@contextmanager
def completion_span(backend: str, prompt: Prompt) -> "Iterator[Callable[[Completion], None]]":
    """Open the span of a completion of an inference job. The function that it yields records the answer's usage.

    Without a current trace, or in one that is sampled out, nothing is opened.
    """
    if not trace.get_current_span().get_span_context().trace_flags.sampled:
        yield lambda _: None
        return
    model = prompt.options.model
    attributes = {"gen_ai.operation.name": "chat", "gen_ai.provider.name": backend}
    if model is not None:
        attributes["gen_ai.request.model"] = model
    name = "chat" if model is None else f"chat {model}"
    client = trace.SpanKind.CLIENT
    with _current(_tracer().start_span(name, kind=client, attributes=attributes)) as span:
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
    with _current(_tracer().start_span("nsai_work.recovery")) as span:
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


def _without_sdk() -> bool:
    return isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)


def _tracer() -> "Tracer":
    return _tracer_of(trace.get_tracer_provider())


@lru_cache(maxsize=4)
def _tracer_of(provider: "TracerProvider") -> "Tracer":
    """The tracer of a provider, which makes a new one for each call."""
    return provider.get_tracer("nsai_work")


def _submit_trace(context: SpanContext) -> SubmitTrace:
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
def _attached(context: Context) -> Iterator[None]:
    """Make a context the current one, with its baggage."""
    token = attach(context)
    try:
        yield
    finally:
        detach(token)


@contextmanager
def _current(span: "Span", outside: Context | None = None) -> "Iterator[Span]":
    """Make a span the current one, and end it: with the code and the message of an error of ours, in which
    credentials are hidden. Of others there is the type alone: they may quote a prompt or a key."""
    try:
        with _attached(trace.set_span_in_context(span, outside)):
            yield span
    except CrucibleError as error:
        span.set_attribute("error.type", error.code)
        span.set_status(trace.StatusCode.ERROR, error.message)
        raise
    except Exception as error:
        span.set_attribute("error.type", type(error).__qualname__)
        span.set_status(trace.StatusCode.ERROR)
        raise
    finally:
        span.end()


def _submission(job: Job) -> SpanContext | None:
    """The context of the submission. A job whose trace was set by hand without flags counts as sampled."""
    if job.trace_id is None or job.span_id is None:
        return None
    flags = TraceFlags.SAMPLED if job.trace_flags is None else job.trace_flags
    return _span_context(job.trace_id, job.span_id, flags, job.tracestate)


@lru_cache(maxsize=256)
def _span_context(trace_id: str, span_id: str, flags: int, tracestate: str | None) -> SpanContext | None:
    """The context of a span that is named so; None if no span can be. Jobs of a submission have the same."""
    if not _IDS.fullmatch(f"{trace_id}-{span_id}"):
        return None
    state = None if tracestate is None else TraceState.from_header([tracestate])
    context = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(flags), trace_state=state
    )
    return context if context.is_valid else None
