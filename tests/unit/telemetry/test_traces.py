"""The trace context of a job: kept as the caller decided it, from the submission to each attempt."""

from collections.abc import Iterator

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from opentelemetry import baggage, context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from structlog.contextvars import clear_contextvars

from crucible import Choice, Completion, FinishReason, Message, Prompt, Usage
from crucible.errors import BackendUnavailable
from crucible.http import redaction
from nsai_work import Job
from nsai_work.job import MAX_BAGGAGE, MAX_TRACESTATE
from nsai_work.telemetry.traces import (
    add_link,
    attempt_span,
    completion_span,
    recovery_span,
    span_reference,
    submit_span,
)
from tests.conventions import odd_names
from tests.rig import command

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags:02x}"


@pytest.fixture(autouse=True)
def _unbound() -> Iterator[None]:
    """An attempt's span binds its trace to the log lines of its task, which here is the process."""
    yield
    clear_contextvars()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK in this process, with what it exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    assert odd_names(exporter.get_finished_spans()) == set()
    provider.shutdown()


def submitted(job: Job, flags: int, **headers: str) -> Job:
    """The job as it is stored when it is submitted inside of a trace of the caller."""
    caller = TraceContextTextMapPropagator().extract({"traceparent": CALLER.format(flags=flags), **headers})
    token = context.attach(baggage.set_baggage("team", "a b", caller))
    try:
        with submit_span([job]) as span:
            return Job.parse(span.mark(job).model_dump(mode="json"))
    finally:
        context.detach(token)


def test_a_submission_produces_what_an_attempt_consumes(exported: InMemorySpanExporter) -> None:
    """By kinds and attributes of messaging, in one trace."""
    submitted = command()
    with submit_span([submitted]) as submission:
        job = submission.mark(submitted)
    with attempt_span(job, 1):
        pass

    produced, consumed = exported.get_finished_spans()
    assert (produced.kind, consumed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    operations = [attributes(span)["messaging.operation.type"] for span in (produced, consumed)]
    assert operations == ["send", "process"]
    assert [attributes(span)["messaging.message.id"] for span in (produced, consumed)] == [job.id] * 2
    assert consumed.parent is not None
    assert consumed.parent.span_id == produced.context.span_id
    assert "messaging.batch.message_count" not in attributes(produced)


def test_a_batch_has_the_number_of_its_messages(exported: InMemorySpanExporter) -> None:
    """And no id of one of them."""
    with submit_span([command(), command()]):
        pass

    [produced] = exported.get_finished_spans()
    assert attributes(produced)["messaging.batch.message_count"] == 2
    assert "messaging.message.id" not in attributes(produced)


def test_the_judge_of_names_finds_odd_ones() -> None:
    """One that is unknown or deprecated, a value that is, and one in an event."""
    with TracerProvider().get_tracer("t").start_as_current_span("s") as span:
        span.set_attributes(
            {"messaging.operation": "x", "messaging.operation.type": "publish", "gen_ai.system": "x"}
        )
        span.set_attributes({"http.request.method": "GET", "gen_ai.provider.name": "x", "nsai_work.any": 1})
        span.add_event("e", {"exception.typo": "x", "exception.type": "x"})
    assert isinstance(span, ReadableSpan)

    odd = {"messaging.operation", "messaging.operation.type=publish", "gen_ai.system", "exception.typo"}
    assert odd_names([span]) == odd


class AlwaysOn(Sampler):
    """A sampler that counts what it is asked, and samples whatever the caller decided."""

    asked = 0

    def should_sample(self, *_: object, **__: object) -> SamplingResult:
        """Sample it."""
        self.asked += 1
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        """The name."""
        return "AlwaysOn"


def test_the_caller_wins_over_a_sampler_that_ignores_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a trace that is sampled out, the sampler of a worker or a submitter is not even asked."""
    sampler = AlwaysOn()
    provider = TracerProvider(sampler=sampler)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)

    job = submitted(command(), flags=0)
    with attempt_span(job, 1) as span, completion_span("tinkex", Prompt.model_validate({"messages": []})):
        assert not span.is_recording()
        current = trace.get_current_span().get_span_context()

    assert (job.trace_flags, job.span_id) == (0, "b7ad6b7169203331")
    assert (trace.format_span_id(current.span_id), int(current.trace_flags)) == (job.span_id, 0)
    assert sampler.asked == 0
    with attempt_span(submitted(command(), flags=1), 1):
        assert sampler.asked == 2


@given(
    st.text(max_size=40), st.text(max_size=20), st.none() | st.integers(0, 255), st.none() | st.text(max_size=60)
)
@example("0" * 32, "1" * 16, 1, None)
@example("1" * 32, "0" * 16, 1, "a=b, c=d")
@example("1" * 32, "2" * 16, 3, "a=b,,c=d,a=e")
@example("1" * 32, "2" * 16, 0, "a=b, c=d")
@example("1" * 32, "2" * 16, None, "a=b,=d")
@example("A" * 32, "2" * 16, None, None)
def test_the_context_of_a_job_is_as_the_specification_reads_it(
    trace_id: str, span_id: str, flags: int | None, state: str | None
) -> None:
    """Whatever the ids and the state are."""
    job = command().model_copy(
        update={"trace_id": trace_id, "span_id": span_id, "trace_flags": flags, "tracestate": state}
    )
    carrier = {"traceparent": f"00-{trace_id}-{span_id}-{1 if flags is None else flags:02x}"}
    read = TraceContextTextMapPropagator().extract(carrier | ({} if state is None else {"tracestate": state}))
    expected = trace.get_current_span(read).get_span_context()
    with attempt_span(job, 1):
        assert trace.get_current_span().get_span_context() == expected


def test_a_trace_that_is_sampled_out_stays_out(exported: InMemorySpanExporter) -> None:
    """Neither the submission nor an attempt is exported."""
    job = submitted(command(), flags=0)
    with attempt_span(job, 1) as span:
        assert span_reference(span) is None
    with attempt_span(submitted(command(), flags=1), 1) as span:
        assert span_reference(span) is not None

    assert job.trace_flags == 0
    assert [span.name for span in exported.get_finished_spans()] == ["nsai_work.submit", "nsai_work.work"]


def test_an_attempt_has_the_state_and_the_baggage_of_the_caller(exported: InMemorySpanExporter) -> None:
    """Both are stored with the job in the form of their specifications."""
    job = submitted(command(), flags=1, tracestate="vendor=x,other=y")
    with attempt_span(job, 1) as span:
        assert span.get_span_context().trace_state.to_header() == "vendor=x,other=y"
        assert baggage.get_baggage("team") == "a b"

    assert (job.tracestate, job.baggage) == ("vendor=x,other=y", "team=a+b")


@given(st.text(max_size=700), st.text(max_size=9000), st.integers(-1, 300))
def test_what_a_header_holds_never_makes_a_job_unreadable(state: str, carried: str, flags: int) -> None:
    """A tracestate or baggage that its specification does not allow is left out."""
    sdk = TracerProvider().get_tracer("caller")
    traceparent = CALLER.format(flags=min(max(flags, 0), 255))
    caller = TraceContextTextMapPropagator().extract({"traceparent": traceparent, "tracestate": state})
    token = context.attach(baggage.set_baggage("k", carried, caller))
    try:
        with sdk.start_as_current_span("caller"), submit_span([command()]) as span:
            job = Job.parse(span.mark(command()).model_dump(mode="json"))
    finally:
        context.detach(token)

    assert job.trace_id is not None
    assert len(job.tracestate or "") <= MAX_TRACESTATE
    assert len(job.baggage or "") <= MAX_BAGGAGE
    with attempt_span(job, 1):
        pass


def test_a_trace_that_the_caller_set_by_hand_counts_as_sampled(exported: InMemorySpanExporter) -> None:
    """Unless it says otherwise; an invalid id begins a trace of its own."""
    ids = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    for fields in (ids, {**ids, "trace_flags": 0}, {"trace_id": "mine", "span_id": "mine"}):
        with attempt_span(command(**fields), 1):
            pass

    first, second = exported.get_finished_spans()
    assert trace.format_trace_id(first.context.trace_id) == ids["trace_id"]
    assert second.parent is None


OPENED = {
    "submission": lambda: submit_span([command()]),
    "attempt": lambda: attempt_span(command(), 1),
    "completion": lambda: completion_span("fake", Prompt(messages=(Message(role="user", content="Hi"),))),
    "recovery": lambda: recovery_span(True),
}


@pytest.mark.parametrize("opened", OPENED)
def test_a_span_says_what_failed_without_keys_and_foreign_texts(
    exported: InMemorySpanExporter, monkeypatch: pytest.MonkeyPatch, opened: str
) -> None:
    """An error of ours has its message, in which a key is hidden; another may quote anything, and has its type."""
    key = "tml-R2d2C3poZx9qW8aa"
    monkeypatch.setattr(redaction, "_pieces", {})
    monkeypatch.setattr(redaction, "_secrets", set())
    redaction.remember_secret(key)
    foreign, ours = ValueError(f"the prompt, {key}"), BackendUnavailable(f"the service answered {key}")
    for error in (foreign, ours):
        with attempt_span(command(), 1), pytest.raises(type(error)), OPENED[opened]():
            raise error

    name = f"nsai_work.{opened}" if opened != "completion" else "chat"
    ended = [span for span in exported.get_finished_spans() if span.status.status_code is trace.StatusCode.ERROR]
    assert {span.name for span in ended} == {name.replace("attempt", "work").replace("submission", "submit")}
    assert [span.attributes["error.type"] for span in ended if span.attributes] == ["ValueError", ours.code]
    assert [span.status.description for span in ended] == [None, ours.message]
    shown = "".join(span.to_json() for span in ended)
    assert key not in shown
    assert "the prompt" not in shown
    assert "the service answered" in shown


def test_an_attempt_is_linked_to_the_one_before(exported: InMemorySpanExporter) -> None:
    """By the reference that its span gave."""
    with attempt_span(command(), 1) as first:
        reference = span_reference(first)
    assert reference is not None
    with attempt_span(command(), 2) as second:
        add_link(second, reference)
        add_link(second, "rubbish")

    [link] = exported.get_finished_spans()[1].links
    assert link.context.span_id == first.get_span_context().span_id


def test_a_completion_is_a_span_of_generative_ai(exported: InMemorySpanExporter) -> None:
    """With the model, the tokens and the reasons, by names that are not deprecated; no text of it."""
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": "secret"}], "options": {"model": "m"}})
    answer = Choice(message=Message(role="assistant", content="secret"), finish_reason=FinishReason.LENGTH)
    with attempt_span(command(), 1), completion_span("tinkex", prompt) as record:
        record(Completion(choices=(answer,), model="m-1", usage=Usage.of(3, 4)))

    span, _ = exported.get_finished_spans()
    assert (span.name, span.kind) == ("chat m", SpanKind.CLIENT)
    assert attributes(span) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "tinkex",
        "gen_ai.request.model": "m",
        "gen_ai.response.model": "m-1",
        "gen_ai.response.finish_reasons": ("length",),
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 4,
    }


def attributes(span: ReadableSpan) -> dict[str, object]:
    """The attributes of a span."""
    return dict(span.attributes or {})
