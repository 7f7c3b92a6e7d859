"""Workers without a key, a backend or a file decline jobs, and workers that have them run them: real processes."""

from pathlib import Path

import pytest
from sqlalchemy import update

from nsai_work import Job, JobHandle, submit
from nsai_work.lifecycle import JobStatus
from nsai_work.store.maintenance.workers import register_worker, worker_seen
from nsai_work.store.schema import specs
from nsai_work.store.worker_id import WorkerId
from tests.contract.openai_server import KEY, OpenAIServer
from tests.rig import Rig, command, until

ELSEWHERE = {"OPENAI_BASE_URL": "https://api.example.org/v1"}
WITHIN_S = 5.0
LONG_LEASE_S = 120.0


def complete(**fields: object) -> Job:
    """A completion by the openai backend."""
    payload = {"prompt": {"messages": [{"role": "user", "content": "Hi"}], "options": {"model": "llama-3.2-1b"}}}
    return Job.parse({"kind": "inference", "backend": "openai", "payload": payload, **fields})


def stored(rig: Rig, job: Job) -> JobHandle:
    """Store a job as a process that has the key or the file would."""
    rig.store.submit([job])
    return rig.handle(job.id)


def _outcomes(rig: Rig, handle: JobHandle) -> list[str | None]:
    return [attempt.outcome for attempt in rig.store.attempts(handle.id)]


def test_a_job_waits_for_the_worker_that_has_the_key(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker without a key tries one job only; the reason is shown; the one that has the key runs both.

    A worker that stands still for most of a lease gives its job back, uncounted. Leases here outlast any such time.
    """
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    rig.variables |= ELSEWHERE
    keyless = rig.start_worker(lease_ttl_s=LONG_LEASE_S)
    handle = stored(rig, complete())
    until(lambda: "no worker can run it" in (handle.job().wait_reason or ""), "the reason", timeout_s=WITHIN_S)
    assert "OPENAI_API_KEY: no API key for https://api.example.org/v1" in (handle.job().wait_reason or "")
    second = stored(rig, complete())
    assert submit(command(), rig.settings()).result(timeout=120) == {}
    assert "OPENAI_API_KEY" in (second.job().wait_reason or "")

    with OpenAIServer() as server:
        rig.variables |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
        rig.start_worker(lease_ttl_s=LONG_LEASE_S)
        for job in (handle, second):
            assert job.result(timeout=120)

    assert _outcomes(rig, handle) == ["declined", "succeeded"]
    assert handle.job().attempt == 1
    assert _outcomes(rig, second) == ["succeeded"]
    assert keyless.terminate() == 0


def test_a_key_that_the_service_refuses_fails_the_job(embedded: Rig) -> None:
    """The same key fails at every worker."""
    with OpenAIServer() as server:
        embedded.variables |= {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": "sk-wrong-0123456789"}
        embedded.start_worker()
        handle = stored(embedded, complete())
        until(lambda: handle.status().ended, "the job ended")

    assert handle.status() is JobStatus.FAILED
    assert _outcomes(embedded, handle) == ["failed"]


def test_a_job_waits_for_the_worker_that_has_the_file(rig: Rig, tmp_path: Path) -> None:
    """A relative path means another file in each worker's folder. Other jobs of the same lane run meanwhile."""
    payload = {"input": {"path": "in/prompts.jsonl"}, "output": str(tmp_path / "answers.jsonl")}
    job = Job.parse({"kind": "inference", "backend": "fake", "payload": payload})
    rig.start_worker()
    handle = stored(rig, job)
    until(lambda: "no worker can run it" in (handle.job().wait_reason or ""), "the reason", timeout_s=WITHIN_S)
    assert "in/prompts.jsonl: does not exist" in (handle.job().wait_reason or "")
    assert submit(command(), rig.settings()).result(timeout=120) == {}

    folder = tmp_path / "elsewhere"
    (folder / "in").mkdir(parents=True)
    (folder / "in" / "prompts.jsonl").write_text('{"prompt": "Hi"}\n')
    rig.start_worker(cwd=folder)

    assert handle.result(timeout=120)["succeeded"] == 1
    assert _outcomes(rig, handle) == ["declined", "succeeded"]


def test_a_backend_that_no_worker_has_is_the_wait_reason(embedded: Rig) -> None:
    """The job was submitted where the plug-in is installed."""
    embedded.start_worker()
    handle = stored(embedded, command(backend="nowhere"))

    until(lambda: handle.job().wait_reason, "the reason", timeout_s=WITHIN_S)

    assert str(handle.job().wait_reason).endswith("it has no backend 'nowhere'")
    assert _outcomes(embedded, handle) == []


def test_a_job_of_another_version_is_left_to_its_workers(embedded: Rig) -> None:
    """During an upgrade, a worker declines what it cannot read, and fails it once there is no other version."""
    job, database = command(), embedded.store.database
    handle = stored(embedded, job)
    spec = {**job.model_dump(mode="json"), "of_a_later_version": True}
    later = WorkerId("elsewhere", "boot", "pid:[1]", 1, 1, "later")
    database.run(lambda tx: tx.connection.execute(update(specs).values(spec=spec)))
    database.run(register_worker, later, version="99.0", backends={"fake": "fake"})
    embedded.start_worker()
    until(lambda: any(_outcomes(embedded, handle)), "an attempt has ended")

    assert _outcomes(embedded, handle) == ["declined"]
    assert handle.status() is JobStatus.QUEUED

    database.run(worker_seen, str(later), stopped=True)
    embedded.start_worker()
    until(lambda: handle.status().ended, "the job ended")

    assert _outcomes(embedded, handle) == ["declined", "failed"]
    error = handle.job().error
    assert error is not None
    assert error.code == "unreadable_job"


def test_run_fails_such_a_job_at_once(embedded: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """``nsai-work run`` was asked for this job by name, so it says the reason instead of waiting for a worker."""
    from nsai_work.worker import run_inline

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("OPENAI_BASE_URL", ELSEWHERE["OPENAI_BASE_URL"])
    handle = stored(embedded, complete())

    run_inline([handle.id], embedded.settings())

    error = handle.job().error
    assert error is not None
    assert error.code == "credential_missing"
