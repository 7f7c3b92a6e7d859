"""Jobs of the python backend: validation, progress, retries, cancellation, time limits, files."""

import asyncio
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from crucible.errors import Canceled, CommandFailed, CommandMissing, InvalidRequest, MalformedAnswer
from nsai_work import Job, JobHandle, JobKind, Settings, submit
from nsai_work.client.connections import close_connections, job_store
from nsai_work.errors import JobTimeout
from nsai_work.lifecycle import JobStatus
from nsai_work.store.records import Selection
from nsai_work.worker import run_inline
from nsai_work.worker.runtime import open_runtime
from nsai_work.worker.runtime_thread import RuntimeThread
from tests.rig import command, until, until_running

KINDS = [JobKind.TOOL_CALL, JobKind.EXPERIMENT_STEP, JobKind.WORKFLOW_STEP, JobKind.BACKEND_COMMAND]


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Settings]:
    """An embedded store with short intervals, and permission to run the test functions."""
    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", "tests.functions")
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))
    yield Settings(home=tmp_path, poll_interval_s=0.1, sweep_interval_s=0.1, shutdown_grace_s=0.5)
    close_connections()


def function(name: str, /, *, isolated: bool = False, kind: JobKind = JobKind.TOOL_CALL, **fields: Any) -> Job:
    """Return a job for a test function."""
    payload = {"command": f"tests.functions:{name}", "arguments": fields.pop("arguments", {})}
    options = {"options": {"isolated": True}} if isolated else {}
    return Job.parse({"kind": kind, "backend": "python", "payload": {**payload, **options}, **fields})


def run(job: Job, settings: Settings) -> JobHandle:
    """Submit a job and run it in this process."""
    handle = submit(job, settings)
    run_inline([handle.id], settings)
    return handle


@contextmanager
def working(settings: Settings) -> Iterator[RuntimeThread]:
    """Run a worker in this process."""
    worker = RuntimeThread(settings, concurrency=4)
    settings.make_home()
    worker.start()
    try:
        yield worker
    finally:
        worker.stop()


def names(handle: JobHandle) -> list[str]:
    """Return the names of a job's events, but for the waiting of one that starts late."""
    return [event.name for event in handle.events() if event.name != "job.waiting"]


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_command_runs_a_function(kind: JobKind, settings: Settings) -> None:
    """The kinds differ in their name alone."""
    handle = run(function("add", kind=kind, arguments={"first": 40}), settings)

    assert handle.result(timeout=1) == {"total": 42}
    assert handle.job().kind is kind
    assert names(handle) == ["job.submitted", "job.running", "job.succeeded"]


@pytest.mark.parametrize("isolated", [False, True])
def test_progress_is_events(isolated: bool, settings: Settings) -> None:
    """Few of them, the last one included, before the end."""
    handle = run(function("count", isolated=isolated, arguments={"total": 1000}), settings)

    events = [event for event in handle.events() if event.name == "command.progress"]
    assert events[-1].data == {"done": 1000, "total": 1000, "message": "1000 of 1000"}
    assert 1 <= len(events) < 20
    assert names(handle)[-1] == "job.succeeded"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "arguments.first: missing"),
        ({"first": "1"}, "arguments.first"),
        ({"first": 1, "c": 1}, "arguments.c: unknown"),
    ],
)
def test_wrong_arguments_are_refused_at_submit(arguments: dict[str, Any], message: str, settings: Settings) -> None:
    """Where the function can be imported."""
    with pytest.raises(InvalidRequest, match=message):
        submit(function("add", arguments=arguments), settings)


def test_an_unknown_option_is_refused_at_submit(settings: Settings) -> None:
    """With the nearest known one."""
    job = Job.parse(
        {
            "kind": "tool_call",
            "backend": "python",
            "payload": {"command": "tests.functions:leave", "options": {"isolate": True}},
        }
    )
    with pytest.raises(InvalidRequest, match=r"options\.isolate: .*did you mean isolated\?"):
        submit(job, settings)


@pytest.mark.parametrize("isolated", [False, True])
def test_a_job_waits_for_a_worker_that_has_the_function(
    isolated: bool, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Submit accepts it where the function is unknown. A worker without it leaves it to others, and says why."""
    monkeypatch.delenv("NSAI_WORK_PYTHON_ALLOW")
    handle = submit(function("add", isolated=isolated, arguments={"first": 1}), settings)
    assert "NSAI_WORK_PYTHON_ALLOW" in str(next(iter(handle.events(after=1))).data["reason"])
    with working(settings):
        until(lambda: "no worker can run it" in (handle.job().wait_reason or ""), "the reason")
        assert "NSAI_WORK_PYTHON_ALLOW" in (handle.job().wait_reason or "")

    monkeypatch.setenv("NSAI_WORK_PYTHON_ALLOW", "tests.functions")
    with working(settings):
        assert handle.result(timeout=120) == {"total": 3}
    assert handle.job().attempt == 1


def test_run_fails_a_job_without_a_function_at_once(settings: Settings) -> None:
    """No other process would run it."""
    handle = run(
        function("add", arguments={"first": 1}).model_copy(update={"payload": {"command": "ad"}}), settings
    )

    with pytest.raises(CommandMissing, match="no package here registers it"):
        handle.result(timeout=1)


@pytest.mark.parametrize("isolated", [False, True])
def test_an_error_of_the_function_fails_the_job(isolated: bool, settings: Settings) -> None:
    """As internal, in one attempt, with the type and the line; its text and traceback are in the log only."""
    handle = run(function("fail", isolated=isolated), settings)

    with pytest.raises(CommandFailed, match=r"raised ValueError in functions\.py, line \d+"):
        handle.result(timeout=1)
    job = handle.job()
    assert job.error is not None
    assert job.error.category == "internal"
    assert job.attempt == 1
    assert "secret-7" not in job.model_dump_json()


@pytest.mark.parametrize("isolated", [False, True])
def test_a_function_may_request_another_attempt(isolated: bool, settings: Settings) -> None:
    """By the retry policy of its job."""
    policy = {"max_attempts": 3, "initial_delay_ms": 1, "jitter": False}
    handle = run(function("succeed_on", isolated=isolated, arguments={"attempt": 3}, retry_policy=policy), settings)

    assert handle.result(timeout=1) == {"attempt": 3}


async def available_after(failure: Job, settings: Settings) -> set[str]:
    """Run a job that fails and is retried, and return the backends of which the worker then claims jobs."""
    handle = submit(failure, settings)
    runtime = await open_runtime(settings, Selection(), 4, publisher=None)
    running = asyncio.create_task(runtime.run())
    while "retried" not in [row.outcome for row in job_store(settings).attempts(handle.id)]:  # noqa: ASYNC110 - read from the store
        await asyncio.sleep(0.01)
    available = runtime.backends.available()
    runtime.stop()
    await running
    return set(available)


def test_a_failing_service_of_a_function_delays_no_other_job(settings: Settings) -> None:
    """It says nothing about the backend, unlike a failure of the backend itself."""
    policy = {"max_attempts": 2, "initial_delay_ms": 60_000, "jitter": False}
    of_function = function("refuse", arguments={"kind": "unavailable"}, retry_policy=policy)
    of_backend = command("fail", arguments={"code": "backend_unavailable"}, retry_policy=policy)

    assert {"python", "fake"} <= asyncio.run(available_after(of_function, settings))
    assert "fake" not in asyncio.run(available_after(of_backend, settings))


def test_a_result_that_is_no_json_fails_its_job_alone(settings: Settings) -> None:
    """Nothing of it is stored; the field is named."""
    handle = run(function("bad_result", arguments={"kind": "nan"}), settings)

    with pytest.raises(MalformedAnswer, match=r"result\.loss\[1\]: nan"):
        handle.result(timeout=1)


def test_files_are_absolute_paths_in_the_home(settings: Settings, tmp_path: Path) -> None:
    """In the folder of the job."""
    handle = run(function("write_file", arguments={"name": "report.txt"}), settings)

    assert handle.result(timeout=1) == {"report": str(tmp_path / "python" / handle.id / "report.txt")}


@pytest.mark.parametrize(("name", "isolated"), [("wait", False), ("wait_async", False), ("never_checks", True)])
def test_a_time_limit_ends_a_function(name: str, isolated: bool, settings: Settings) -> None:
    """In a thread if it checks its flag, in a process in any case."""
    limit = 1500 if isolated else 200
    before = set(threading.enumerate())
    handle = run(function(name, isolated=isolated, resources={"timeout_ms": limit}), settings)

    with pytest.raises(JobTimeout):
        handle.result(timeout=1)
    assert not [thread for thread in {*threading.enumerate()} - before if thread.name.startswith("function")]


@pytest.mark.parametrize(("name", "isolated"), [("wait", False), ("wait_async", False), ("never_checks", True)])
def test_a_running_function_is_canceled(name: str, isolated: bool, settings: Settings) -> None:
    """Within seconds, and its worker goes on."""
    with working(settings):
        handle = submit(function(name, isolated=isolated), settings)
        until_running(handle)
        handle.cancel()
        with pytest.raises(Canceled):
            handle.result(timeout=120)
        assert submit(function("add", arguments={"first": 1}), settings).result(timeout=120) == {"total": 3}


def test_a_function_is_handed_over_at_shutdown(settings: Settings) -> None:
    """After the grace period, its job is queued again for another worker."""
    with working(settings):
        handle = submit(function("wait"), settings)
        until_running(handle)
        began = time.monotonic()

    assert handle.status() is JobStatus.QUEUED
    assert time.monotonic() - began < 30
