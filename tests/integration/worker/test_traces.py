"""A trace from the submission, through two attempts, to the requests that the service receives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv.attributes import error_attributes, http_attributes, server_attributes, url_attributes
from opentelemetry.trace import SpanKind

from backends.tinkex_dev.server import DevServer
from nsai_work import Job, Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.worker import run_inline

HTTP_NAMES = {
    value
    for module in (error_attributes, http_attributes, server_attributes, url_attributes)
    for name, value in vars(module).items()
    if name.isupper()
}


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An embedded store, and permission to run the test functions."""
    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", "tests.functions")
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))
    yield Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=0.1)
    close_connections()


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> Iterator[InMemorySpanExporter]:
    """An SDK in this process, with what it exports."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    yield exporter
    provider.shutdown()


def of_kind(exported: InMemorySpanExporter, kind: SpanKind) -> list[ReadableSpan]:
    """The exported spans of a kind, in the order of their ends."""
    return [span for span in exported.get_finished_spans() if span.kind is kind]


def test_a_second_attempt_is_linked_to_the_first(settings: Settings, exported: InMemorySpanExporter) -> None:
    """Both are children of the submission."""
    payload = {"command": "tests.functions:succeed_on", "arguments": {"attempt": 2}}
    job = Job.parse({
        "kind": "tool_call", "backend": "python", "payload": payload, "retry_policy": {"initial_delay_ms": 0},
    })  # fmt: skip

    run_inline([submit(job, settings).id], settings)

    [submission] = of_kind(exported, SpanKind.PRODUCER)
    first, second = of_kind(exported, SpanKind.CONSUMER)
    assert [span.parent.span_id for span in (first, second) if span.parent] == [submission.context.span_id] * 2
    assert [link.context.span_id for link in second.links] == [first.context.span_id]
    assert not first.links


def test_a_request_to_the_service_is_in_the_trace_of_the_submission(
    settings: Settings, exported: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By names of the conventions for HTTP, without the query and the key."""
    with DevServer(tmp_path / "service", seed=0) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", "tml-secret")
        prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "tiny-lm", "max_tokens": 2}}
        job = Job.parse({"kind": "inference", "backend": "tinkex", "payload": {"prompt": prompt}})
        run_inline([submit(job, settings).id], settings)

    [submission] = of_kind(exported, SpanKind.PRODUCER)
    spans = of_kind(exported, SpanKind.CLIENT)
    chat, *requests = sorted(spans, key=lambda span: not span.name.startswith("chat"))
    assert {span.context.trace_id for span in (chat, *requests)} == {submission.context.trace_id}
    sampling = next(span for span in requests if str((span.attributes or {})["url.full"]).endswith("/asample"))
    assert sampling.name == "POST"
    assert (sampling.attributes or {})["http.response.status_code"] == 200
    names = {name for span in requests for name in span.attributes or {}}
    assert names <= HTTP_NAMES
    assert "tml-secret" not in "".join(span.to_json() for span in exported.get_finished_spans())
