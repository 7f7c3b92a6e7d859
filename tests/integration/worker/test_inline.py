"""``run_inline``: runs the given jobs in this process, without a broker."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsai_work import Job, Settings, submit
from nsai_work.client.connections import close_connections, job_store
from nsai_work.lifecycle import JobStatus
from nsai_work.store import EventRow
from nsai_work.telemetry.job_events import add_hook
from nsai_work.worker import run_inline
from nsai_work.worker.attempts import executor
from tests.rig import Rig, command, until, until_running
from tests.zygote import ScriptProcess

RUN = """
import sys
from nsai_work import Settings
from nsai_work.worker import run_inline
run_inline(sys.argv[1:], Settings(), on_stopping=lambda: print("stopping", file=sys.stderr))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An embedded store."""
    yield Settings(home=tmp_path, sweep_interval_s=0.1, poll_interval_s=0.1)
    close_connections()


def test_only_the_given_jobs_run(settings: Settings) -> None:
    """Their events are passed on in order. Another job on the same queue stays queued."""
    other = submit(command(), settings)
    handle = submit(command("echo", arguments={"value": 1}), settings)
    events: list[EventRow] = []

    run_inline([handle.id], settings, on_event=events.append)

    # on a slow machine it waits first
    names = [event.name for event in events if event.name != "job.waiting"]
    assert names == ["job.submitted", "job.running", "job.succeeded"]
    assert handle.result(timeout=1) == {"value": 1}
    assert other.status() is JobStatus.QUEUED


def test_it_runs_beside_a_running_event_loop(settings: Settings) -> None:
    """In a thread of an async program, such as a notebook."""
    import asyncio

    handle = submit(command(), settings)
    asyncio.run(asyncio.to_thread(run_inline, [handle.id], settings))

    assert handle.status() is JobStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("job", "delay_s", "lines"),
    [
        (command(), 60, ["job.succeeded"]),
        (command("sleep", arguments={"ms": 100}), 0, ["job.claimed", "job.succeeded"]),
        (
            command("fail", arguments={"times": 1}, retry_policy={"initial_delay_ms": 0}),
            60,
            ["job.retried", "job.claimed", "job.succeeded"],
        ),
    ],
)
def test_a_claim_is_logged_unless_the_end_of_a_first_attempt_comes_sooner(
    settings: Settings,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    job: Job,
    delay_s: float,
    lines: list[str],
) -> None:
    """The line of the end has how long the job was queued. Hooks hear of each claim."""
    monkeypatch.setattr(executor, "CLAIM_LINE_DELAY_S", delay_s)
    caplog.set_level("INFO", "nsai_work.jobs")
    heard: list[str] = []
    remove = add_hook(lambda event: heard.append(event.name))
    try:
        run_inline([submit(job, settings).id], settings)
    finally:
        remove()

    logged = [record for record in caplog.records if record.name == "nsai_work.jobs"]
    assert [record.getMessage().partition(" ")[0] for record in logged] == lines
    assert all("queued_s=" in record.getMessage() for record in logged)
    assert heard.count("job.claimed") == len([name for name in heard if name != "job.claimed"])


def _signal(process: "subprocess.Popen[bytes]", number: signal.Signals) -> bool:
    process.send_signal(number)
    return process.poll() is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_requeues_the_job(number: signal.Signals, tmp_path: Path) -> None:
    """Ctrl-C is acknowledged and loses nothing: the job is queued again, and no attempt is used."""
    rig = Rig.embedded(tmp_path)
    handle = submit(command("sleep", arguments={"ms": 60_000}), rig.settings())
    (script := tmp_path / "run.py").write_text(RUN)
    process = ScriptProcess(
        script,
        [handle.id],
        env=rig.environment(shutdown_grace_s=0.2),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        until_running(handle)
        process.send_signal(number)
        if number is signal.SIGTERM:
            # as timeout(1) does, which signals the process and then its group
            until(lambda: handle.status() is not JobStatus.RUNNING or _signal(process, number), "it stops")
        _, errors = process.communicate(timeout=120)

        assert process.returncode == 0, errors.decode()
        assert errors.decode().count("stopping") == 1
        job = handle.job()
        assert (job.status, job.attempt) == (JobStatus.QUEUED, 0)
    finally:
        process.kill()
        process.wait()
        rig.close()


def test_an_unavailable_service_refuses_no_job(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job that could not be validated there is accepted, with an event that says so."""
    monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("TINKER_API_KEY", "tml-test")
    (tmp_path / "texts.jsonl").write_text('{"text": "hello"}\n')
    job = {
        "kind": "training_step",
        "backend": "tinkex",
        "payload": {"base_model": "m", "data": {"path": str(tmp_path / "texts.jsonl")}, "max_steps": 1},
    }
    from nsai_work import Job

    handle = submit(Job.parse(job), settings.model_copy(update={"submit_timeout_s": 1.0}))

    assert [event.name for event in job_store(settings).events(handle.id)] == ["job.submitted", "submit.unverified"]
