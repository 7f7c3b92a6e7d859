"""Workers are replaced one by one under load, as a deployment does it: no job and no step is lost or done twice.

The short form has the embedded store and broker; that with PostgreSQL and RabbitMQ is in ``make test-slow``.
"""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from backends.tinkex_dev.server import DEV_KEY, DevProcess
from nsai_work import Job, JobHandle, submit
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Store
from nsai_work.store.worker_id import WorkerId
from tests.integration.training.harness import payload_of
from tests.rig import PAIRS, SLOW_PAIRS, WAIT_S, Rig, WorkerProcess, command, until

RESTARTS, STEPS = 2, 40


def start(rig: Rig) -> WorkerProcess:
    """Start a worker and wait until its probe says that it is ready, as a deployment waits."""
    worker = rig.start_worker("--http", "0", "--json", poll_interval_s=0.2)
    lines = until(lambda: [line for line in worker.text().splitlines() if '"pid"' in line], "it has an address")
    url = json.loads(lines[0])["http"]
    until(lambda: httpx.get(f"{url}/readyz", timeout=WAIT_S).status_code == 200, "it is ready", worker.text)
    return worker


@contextmanager
def stream(store: Store) -> Iterator[list[str]]:
    """Submit commands all the time. Yields their ids."""
    ids: list[str] = []
    stop = threading.Event()

    def submit_commands() -> None:
        while not stop.wait(0.05):
            job = command()
            store.submit([job])
            ids.append(job.id)

    thread = threading.Thread(target=submit_commands)
    thread.start()
    try:
        yield ids
    finally:
        stop.set()
        thread.join(WAIT_S)


def owner_of(rig: Rig, run: JobHandle) -> WorkerProcess:
    """The process that runs a job."""
    worker = WorkerId.parse(str(run.job().worker_id))
    return next(each for each in rig.workers if worker is not None and each.process.pid == worker.pid)


@pytest.mark.parametrize("rig", [PAIRS[0], SLOW_PAIRS[0]], indirect=True)
def test_a_rolling_restart_loses_no_job_and_no_step(rig: Rig, tmp_path: Path) -> None:
    """SIGTERM to a worker in the middle of a run, once a successor is ready: no attempt or step is used twice."""
    fields = {"base_model": "tiny-lm", "max_steps": STEPS, "checkpoint_policy": {"strategy": "last"}}
    payload = payload_of(tmp_path, **fields).model_dump(mode="json")
    runs = []
    with DevProcess(tmp_path / "server", "--work-ms", "50") as server:
        rig.variables |= {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY}
        start(rig)
        with stream(rig.store) as commands:
            for _ in range(RESTARTS):
                start(rig)
                run = submit(Job(kind="training_step", backend="tinkex", payload=payload), rig.settings())
                runs.append(run)
                until(run.steps, "the run has begun")
                worker = owner_of(rig, run)
                assert worker.terminate() == 0, worker.text()
            resumes = {run.result(timeout=WAIT_S)["resume"] for run in runs}
        until(lambda: all(rig.store.get(each).status.ended for each in commands), "every command has ended")
        entries = server.log(kind="optim_step")

    # a run on a machine that stands still for seconds may end before the signal
    assert "warm" in resumes
    jobs = [rig.store.get(each) for each in (*commands, *(run.id for run in runs))]
    assert {(each.status, each.attempt) for each in jobs} == {(JobStatus.SUCCEEDED, 1)}
    names = Counter(event.name for each in jobs for event in rig.store.events(each.id))
    assert names["job.succeeded"] == len(jobs)
    assert names["training.incident"] == names["resume.restored"] == 0
    assert all([step.step for step in run.steps()] == [*range(1, STEPS + 1)] for run in runs)
    applied: dict[str, list[int]] = {}
    for entry in entries:
        applied.setdefault(entry["model_id"], []).append(entry["step"])
    assert [*applied.values()] == [[*range(1, STEPS + 1)]] * RESTARTS
