"""A trace from the submission, through two attempts, to the requests that the service receives."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from backends.tinkex_dev.server import DevServer
from nsai_work import Job, Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.worker import run_inline
from tests.conventions import odd_names
from tests.conversations import write_conversations


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
    assert odd_names(exporter.get_finished_spans()) == set()
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


def trained(settings: Settings, folder: Path, server: DevServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Train for four steps at a service that corrupts the run after three. Returns the id of the job."""
    monkeypatch.setenv("TINKER_BASE_URL", server.url)
    monkeypatch.setenv("TINKER_API_KEY", "tml-secret")
    server.fault(kind="corrupt", after_optim_steps=3)
    payload = {
        "base_model": "tiny-lm",
        "data": {"path": str(write_conversations(folder / "data.jsonl", 4))},
        "lora": {"rank": 2},
        "batch_size": 2,
        "max_steps": 4,
        "pipeline_depth": 1,
        "checkpoint_policy": {"save_every": 2},
    }
    job = Job.parse({"kind": "training_step", "backend": "tinkex", "payload": payload})
    handle = submit(job, settings)
    run_inline([handle.id], settings)
    assert handle.job().status == "succeeded", handle.job().error
    return handle.id


def test_steps_checkpoints_and_recoveries_are_spans(
    settings: Settings, exported: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the attempt, as long as they took; a recovery is the parent of its requests."""
    with DevServer(tmp_path / "service", seed=0) as server:
        trained(settings, tmp_path, server, monkeypatch)

    [attempt] = of_kind(exported, SpanKind.CONSUMER)
    of_attempt = [span for span in exported.get_finished_spans() if span.parent == attempt.context]
    steps = [span.attributes or {} for span in of_attempt if span.name == "nsai_work.step"]
    [recovery] = [span for span in of_attempt if span.name == "nsai_work.recovery"]
    saved = [span.attributes or {} for span in of_attempt if span.name == "nsai_work.checkpoint"]
    assert [step["nsai_work.step"] for step in steps][-1] == 4
    assert {step["nsai_work.generation"] for step in steps} == {1, 2}
    assert {save["nsai_work.step"] for save in saved} == {2, 4}
    assert (recovery.attributes or {})["nsai_work.generation"] == 2
    assert any(span.parent == recovery.context for span in of_kind(exported, SpanKind.CLIENT))
    assert all(span.start_time and span.end_time and span.start_time <= span.end_time for span in of_attempt)


def test_a_trace_that_is_sampled_out_stays_out_to_the_service(
    settings: Settings, exported: InMemorySpanExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the submission, through an attempt with steps, a save and a recovery, to the requests."""
    header = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"}
    token = context.attach(TraceContextTextMapPropagator().extract(header))
    try:
        with DevServer(tmp_path / "service", seed=0) as server:
            trained(settings, tmp_path, server, monkeypatch)
    finally:
        context.detach(token)

    assert exported.get_finished_spans() == ()


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
    assert "tml-secret" not in "".join(span.to_json() for span in exported.get_finished_spans())
