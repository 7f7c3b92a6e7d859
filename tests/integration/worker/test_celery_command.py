"""Celery's own command runs the worker too, with any pool: no wake-up reaches the pool."""

import subprocess
import sys
from pathlib import Path

import pytest

from nsai_work import submit
from tests.rig import Rig, WorkerProcess, command, until

CELERY = ["celery", "-A", "nsai_work.worker.celery_app:app", "worker", "--concurrency", "2", "--loglevel", "INFO"]


@pytest.mark.parametrize("pool", ["prefork", "threads"])
def test_a_job_runs_under_celerys_command(pool: str, tmp_path: Path) -> None:
    """The worker is woken up, runs the job, and exits on SIGTERM."""
    rig = Rig.embedded(tmp_path)
    log = tmp_path / "celery.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", *CELERY, "--pool", pool],
            env=rig.environment(poll_interval_s=300, sweep_interval_s=300),
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    worker = WorkerProcess(process, log)
    rig.workers.append(worker)
    try:
        until(lambda: "ready." in worker.text() or process.poll() is not None, "it is ready", worker.text)
        assert submit(command("echo", arguments={"value": 7}), rig.settings()).result(timeout=120) == {"value": 7}
        assert worker.terminate() == 0
    finally:
        rig.close()
