"""Hooks and logs."""

import logging

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import messaging_attributes
from opentelemetry.trace import SpanKind

from nsai_work import telemetry
from nsai_work.telemetry import JobEvent, add_hook, emit, log_entry
from tests.rig import command

MESSAGING = {
    "messaging.system",
    "messaging.operation.name",
    "messaging.operation.type",
    "messaging.batch.message_count",
    "messaging.message.id",
}
EVENT = JobEvent("job.claimed", "id", "tool_call", "fake", 1, 1, {"reason": "a b"})


def test_a_hook_gets_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """The same record goes to hooks and to the log; a hook that raises harms nobody."""
    seen: list[JobEvent] = []

    def broken(event: JobEvent) -> None:
        raise ZeroDivisionError

    removals = [add_hook(broken), add_hook(seen.append)]
    with caplog.at_level(logging.INFO):
        emit(EVENT)
    for remove in removals:
        remove()
    emit(EVENT)

    assert seen == [EVENT]
    messages = [record.getMessage() for record in caplog.records]
    assert 'job.claimed job_id=id kind=tool_call backend=fake fence=1 attempt=1 reason="a b"' in messages
    assert any(message.startswith("telemetry.hook_failed") for message in messages)


def test_a_library_is_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Who only imports us sees nothing on stdout or stderr."""
    emit(EVENT)

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("training.incident", "WARNING"),
        ("tinkex.recovery.detected", "WARNING"),
        ("recovery.failed", "WARNING"),
        ("tinkex.recovery.completed", "INFO"),
        ("resume.cold", "WARNING"),
        ("resume.warm", "INFO"),
        ("wait.started", "WARNING"),
        ("wait.ended", "INFO"),
        ("inference.progress", None),
    ],
)
def test_incidents_and_recoveries_are_logged(
    name: str, level: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With the id of the job, whatever fields the entry has."""
    with caplog.at_level(logging.INFO):
        log_entry("id", name, {"event": "x", "level": 3, "reason": "a b", "job_id": "other", "name": "n"})

    assert [record.levelname for record in caplog.records] == ([] if level is None else [level])
    for record in caplog.records:
        assert record.getMessage() == f'{name} level=3 reason="a b" job_id=id name=n'


@pytest.mark.parametrize("name", ["job.failed", "job.timeout", "job.retried", "job.lost", "job.abandoned"])
def test_a_bad_end_of_an_attempt_is_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Others are information."""
    with caplog.at_level(logging.WARNING):
        emit(JobEvent(name, "id", "tool_call", "fake", 1, 1))
        emit(EVENT)

    assert [record.levelname for record in caplog.records] == ["WARNING"]


def test_a_submission_produces_what_an_attempt_consumes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The spans' kinds and names are those of messaging, and the attempt is in the trace of the submission."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(telemetry, "_tracer", lambda: provider.get_tracer("nsai_work"))
    monkeypatch.setattr(telemetry, "_tracing_disabled", lambda: False)

    with telemetry.submit_span(1) as submitted:
        job = submitted.mark(command())
    with telemetry.attempt_span(job, 1):
        pass

    produced, consumed = exporter.get_finished_spans()
    assert (produced.kind, consumed.kind) == (SpanKind.PRODUCER, SpanKind.CONSUMER)
    assert produced.attributes is not None
    assert consumed.attributes is not None
    assert consumed.attributes["messaging.message.id"] == job.id
    assert [span["messaging.operation.type"] for span in (produced.attributes, consumed.attributes)] == [
        "send",
        "process",
    ]
    assert consumed.parent is not None
    assert consumed.parent.span_id == produced.context.span_id
    assert all(hasattr(messaging_attributes, name.upper().replace(".", "_")) for name in MESSAGING)
    assert {
        name for span in (produced, consumed) for name in span.attributes or {} if "messaging" in name
    } == MESSAGING
