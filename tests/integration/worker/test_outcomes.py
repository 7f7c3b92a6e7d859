"""Outcomes of jobs, on a worker's runtime in this process, without broker and Celery."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import AuthenticationFailed, BackendUnavailable, Canceled, InvalidRequest, MalformedAnswer
from nsai_work import Job, JobHandle, Settings, submit, submit_many
from nsai_work.client.connections import close_connections, job_store
from nsai_work.dispatch.wakeup import WakeUp
from nsai_work.errors import CrucibleError, InvalidJob, JobTimeout
from nsai_work.job import Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.worker.runtime_thread import RuntimeThread
from tests.rig import command, until_running


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An embedded store with short intervals."""
    yield Settings(
        home=tmp_path,
        poll_interval_s=0.1,
        sweep_interval_s=0.1,
        lease_ttl_s=2,
        credit_poll_s=0.2,
        shutdown_grace_s=1,
    )
    close_connections()


@pytest.fixture
def runtime(settings: Settings) -> Iterator[RuntimeThread]:
    """A worker in this process."""
    thread = RuntimeThread(settings, concurrency=20)
    settings.make_home()
    thread.start()
    yield thread
    thread.stop()


def fail(code: str, times: int = 1, **fields: Any) -> Job:
    """Return a job that fails a number of times, then succeeds."""
    arguments = {"code": code, "times": times, "key": "k", **fields.pop("arguments", {})}
    policy = {"max_attempts": 3, "initial_delay_ms": 10, "jitter": False}
    return command("fail", arguments=arguments, retry_policy=policy, **fields)


def _outcomes(handle: JobHandle, settings: Settings) -> list[str | None]:
    return [attempt.outcome for attempt in job_store(settings).attempts(handle.id)]


@pytest.fixture(autouse=True)
def _fake_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))


def test_a_transient_failure_is_retried(runtime: RuntimeThread, settings: Settings) -> None:
    """Two failures, then success: three attempts, one job, one result."""
    handle = submit(fail("backend_unavailable", 2), settings)

    assert handle.result(timeout=120) == {"failures": 2}
    assert _outcomes(handle, settings) == ["retried", "retried", "succeeded"]


def test_the_error_of_the_last_attempt_is_the_jobs(runtime: RuntimeThread, settings: Settings) -> None:
    """``result`` raises an error of the original class."""
    handle = submit(fail("backend_unavailable", 9), settings)

    with pytest.raises(BackendUnavailable, match="as scripted"):
        handle.result(timeout=120)
    assert _outcomes(handle, settings) == ["retried", "retried", "failed"]


def test_a_refused_credential_fails_only_its_job(runtime: RuntimeThread, settings: Settings) -> None:
    """The worker continues with other jobs."""
    handle = submit(fail("authentication_failed"), settings)

    with pytest.raises(AuthenticationFailed):
        handle.result(timeout=120)
    assert submit(command(), settings).result(timeout=120) == {}


@pytest.mark.parametrize("code", ["out_of_credit", "capacity"])
def test_a_limit_of_the_service_uses_no_attempt(code: str, runtime: RuntimeThread, settings: Settings) -> None:
    """Out of credit, or out of capacity: the job is queued with the reason, and continues without a user's
    action."""
    handle = submit(fail(code, 5, arguments={"retry_after_ms": 50}), settings)

    assert handle.result(timeout=120) == {"failures": 5}
    assert _outcomes(handle, settings) == ["released"] * 5 + ["succeeded"]
    assert handle.job().attempt == 1
    reasons = [event.data.get("reason") for event in handle.events() if event.name == "job.queued"]
    assert all("credit" in str(reason) or "limit" in str(reason) for reason in reasons)


def test_retry_after_is_respected(runtime: RuntimeThread, settings: Settings) -> None:
    """The next attempt starts no earlier than the service demands."""
    handle = submit(fail("backend_unavailable", 1, arguments={"retry_after_ms": 700}), settings)
    handle.result(timeout=120)

    first, second = job_store(settings).attempts(handle.id)
    assert first.ended_at is not None
    assert second.started_at - first.ended_at >= timedelta(seconds=0.65)


def test_a_running_job_is_canceled(runtime: RuntimeThread, settings: Settings) -> None:
    """It stops soon, and ends as canceled."""
    handle = submit(command("sleep", arguments={"ms": 60_000}), settings)
    until_running(handle)

    handle.cancel()

    with pytest.raises(Canceled):
        handle.result(timeout=120)
    assert handle.status() is JobStatus.CANCELED


@pytest.mark.parametrize(
    "limit",
    [
        {"resources": {"timeout_ms": 200}},
        {"constraints": {"deadline": None}},
    ],
    ids=["timeout_ms", "deadline"],
)
def test_a_time_limit_ends_a_job(limit: dict[str, Any], runtime: RuntimeThread, settings: Settings) -> None:
    """An attempt's limit and the job's deadline both take effect while it runs."""
    if "constraints" in limit:
        limit = {"constraints": {"deadline": datetime.now(UTC) + timedelta(seconds=1)}}
    handle = submit(command("sleep", arguments={"ms": 60_000}, **limit), settings)

    with pytest.raises(JobTimeout):
        handle.result(timeout=120)
    assert handle.status() is JobStatus.TIMEOUT


def test_jobs_wait_for_their_dependencies(runtime: RuntimeThread, settings: Settings) -> None:
    """A composite ends after its dependencies. A failed dependency fails the jobs that depend on it."""
    good = [command("sleep", arguments={"ms": 100}) for _ in range(2)]
    bad = fail("authentication_failed")
    joined = Job.parse(
        {"kind": "composite", "payload": {}, "constraints": {"depends_on": [job.id for job in good]}}
    )
    doomed = Job.parse({"kind": "composite", "payload": {}, "constraints": {"depends_on": [bad.id]}})

    handles = submit_many([*good, bad, joined, doomed], settings)

    assert handles[3].result(timeout=120) == {}
    jobs = [job_store(settings).get(handle.id) for handle in handles]
    assert jobs[3].started_at is not None
    assert all(part.completed_at and part.completed_at <= jobs[3].started_at for part in jobs[:2])
    with pytest.raises(CrucibleError):
        handles[4].result(timeout=120)


def test_jobs_run_concurrently(runtime: RuntimeThread, settings: Settings) -> None:
    """Up to the worker's concurrency, which is 20 here."""
    handles = submit_many([command("sleep", arguments={"ms": 300}) for _ in range(60)], settings)

    for handle in handles:
        assert handle.result(timeout=120) == {"slept_ms": 300}
    jobs = [handle.job() for handle in handles]
    spans = [(job.started_at, job.completed_at) for job in jobs if job.started_at and job.completed_at]
    starts = sorted(start for start, _ in spans)
    concurrency = max(sum(start <= moment <= end for start, end in spans) for moment in starts)
    assert 10 <= concurrency <= 20


def test_a_forced_stop_requeues_jobs_at_once(settings: Settings) -> None:
    """No job is left running. It is queued again, and no attempt is used."""
    settings.make_home()
    first = RuntimeThread(settings)
    first.start()
    handle = submit(command("sleep", arguments={"ms": 60_000}), settings)
    until_running(handle)

    first.force_stop()
    first.stop()

    job = handle.job()
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    assert _outcomes(handle, settings) == ["released"]


@pytest.mark.parametrize(
    ("job", "error", "names"),
    [
        (
            {"kind": "tool_call", "backend": "nope", "payload": {"command": "noop"}},
            InvalidRequest,
            "known are: fake",
        ),
        ({"kind": "tool_call", "backend": "fake", "payload": {"command": "x"}}, InvalidRequest, "allowed are echo"),
        (
            {"kind": "tool_call", "backend": "fake", "payload": {"command": "sleep", "arguments": {"ms": -1}}},
            InvalidRequest,
            "ms",
        ),
        (
            {
                "kind": "training_step",
                "backend": "fake",
                "payload": {"base_model": "tiny-lm", "data": {"path": "missing.jsonl"}, "max_steps": 1},
            },
            InvalidJob,
            "missing.jsonl",
        ),
        (
            {
                "kind": "tool_call",
                "backend": "fake",
                "payload": {"command": "noop"},
                "constraints": {"deadline": "2020-01-01T00:00:00Z"},
            },
            InvalidJob,
            "deadline",
        ),
        (
            {
                "kind": "tool_call",
                "backend": "fake",
                "payload": {"command": "noop"},
                "constraints": {"required_backends": ["nope"]},
            },
            InvalidJob,
            "required_backends",
        ),
        (
            {
                "kind": "tool_call",
                "backend": "fake",
                "payload": {"command": "echo", "arguments": {"value": {"api_key": "abc"}}},
            },
            InvalidJob,
            "credential",
        ),
        ({"kind": "tool_call", "backend": "tinkex", "payload": {"command": "noop"}}, CrucibleError, "tinkex"),
    ],
    ids=["backend", "command", "argument", "data", "deadline", "required", "credential", "no-commands"],
)
def test_an_invalid_job_refuses_the_whole_submit(
    job: dict[str, Any], error: type[Exception], names: str, settings: Settings
) -> None:
    """The error names the invalid field, and not even the valid job is stored."""
    with pytest.raises(error, match=names):
        submit_many([command(), Job.parse(job)], settings)

    assert job_store(settings).list_jobs() == []


def test_the_same_idempotency_key_is_one_job(runtime: RuntimeThread, settings: Settings) -> None:
    """Submitting again returns the stored job."""
    first = submit(command(idempotency_key="once"), settings)
    first.result(timeout=120)

    assert submit(command(idempotency_key="once"), settings).id == first.id
    assert _outcomes(first, settings) == ["succeeded"]


def test_the_async_methods_are_equivalent(runtime: RuntimeThread, settings: Settings) -> None:
    """They return the results of the blocking ones, without blocking the loop."""
    import asyncio

    from nsai_work import asubmit

    async def scenario() -> list[str]:
        handle = await asubmit(command("echo", arguments={"value": 1}), settings)
        assert await handle.aresult(timeout=120) == {"value": 1}
        assert await handle.astatus() is JobStatus.SUCCEEDED
        assert await handle.asteps() == []
        assert await handle.acheckpoints() == []
        return [event.name async for event in handle.aevents(follow=True)]

    assert asyncio.run(scenario()) == ["job.submitted", "job.running", "job.succeeded"]


def test_result_raises_after_its_timeout(settings: Settings) -> None:
    """The timeout limits the wait, not the job."""
    handle = submit(command(), settings)

    with pytest.raises(TimeoutError, match="has not ended after"):
        handle.result(timeout=0.05)
    assert handle.status() is JobStatus.QUEUED


def test_a_retry_is_claimed_when_it_is_due(tmp_path: Path) -> None:
    """The worker that requeued a job claims again when the delay is over, whatever its polling interval."""
    slow = Settings(home=tmp_path, poll_interval_s=300, sweep_interval_s=300)
    slow.make_home()
    runtime = RuntimeThread(slow)
    runtime.start()
    try:
        handle = submit(
            fail("backend_unavailable", 1), slow.model_copy(update={"broker_url": "amqp://127.0.0.1:9//"})
        )
        runtime.wake(WakeUp(job_id=handle.id, fence=0, priority=Priority.BATCH))

        assert handle.result(timeout=120) == {"failures": 1}
    finally:
        runtime.stop()
        close_connections()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**64, "\ud800", {1: 2}, b"x", {1}], ids=repr)
def test_a_result_that_is_not_json_is_an_error_of_its_job(
    runtime: RuntimeThread, settings: Settings, monkeypatch: pytest.MonkeyPatch, value: object
) -> None:
    """Of any kind of job; the message names the value, and other jobs are not affected."""

    async def broken(*_: object, **__: object) -> dict[str, Any]:
        return {"losses": [0.5, value]}

    monkeypatch.setattr("nsai_work.worker.attempts.handlers._run_command", broken)
    handle, other = (
        submit(command("noop"), settings),
        submit(Job.parse({"kind": "composite", "payload": {}}), settings),
    )

    with pytest.raises(MalformedAnswer, match=r"^result\.losses\[1\]: "):
        handle.result(timeout=120)
    assert handle.job().result is None
    assert other.result(timeout=120) == {}
