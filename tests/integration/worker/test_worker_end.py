"""Jobs and files that could take a worker down: it goes on, or it ends with a reason and a code other than 0."""

import os
import resource
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from nsai_work import JobHandle, submit
from nsai_work.lifecycle import JobStatus
from tests import unruly
from tests.rig import WAIT_S, Rig, WorkerProcess, command, until, until_running


@pytest.fixture
def rig(embedded: Rig, tmp_path: Path) -> Rig:
    """An embedded rig whose workers know the unruly plug-in."""
    embedded.variables |= unruly.install(tmp_path / "plug-in")
    return embedded


def stored(rig: Rig, name: str, **arguments: Any) -> JobHandle:
    """Store an unruly job. This process does not know the plug-in."""
    job = command(name, arguments=arguments, backend="unruly")
    rig.store.submit([job])
    return rig.handle(job.id)


def end_of(worker: WorkerProcess, within_s: float = WAIT_S) -> tuple[int, str]:
    """Wait for the end of a worker. Returns its exit code and its last line."""
    code = worker.process.wait(within_s)
    return code, worker.text().strip().splitlines()[-1]


def test_a_blocked_loop_is_unhealthy_and_well_again(rig: Rig, tmp_path: Path) -> None:
    """For longer than half a lease, shorter than a whole one. The job succeeds."""
    worker = rig.start_worker(lease_ttl_s=6)
    handle = stored(rig, "block", s=4, path=str(tmp_path / "blocked"))

    assert handle.result(timeout=120) == {}
    until(lambda: "worker.healthy" in worker.text(), "the worker is well again", worker.text)

    [unhealthy] = [line for line in worker.text().splitlines() if "worker.unhealthy" in line]
    assert handle.id in unhealthy, "whose claim has no line: the loop was blocked before"
    assert "the event loop has not turned for 3.0 s" in worker.text()
    assert submit(command(), rig.settings()).result(timeout=120) == {}
    assert worker.terminate() == 0


def test_a_loop_that_is_blocked_for_a_lease_ends_the_worker(rig: Rig, tmp_path: Path) -> None:
    """The last line says why, the log where; another worker takes the job over."""
    worker = rig.start_worker(lease_ttl_s=2)
    handle = stored(rig, "block", s=600, path=str(tmp_path / "blocked"))

    code, last = end_of(worker)

    assert code == 1
    assert last.startswith("error: the worker ends: the event loop has not turned for 2.0 s")
    assert "unruly.py" in worker.text()
    rig.start_worker(lease_ttl_s=2)
    assert handle.result(timeout=120) == {}
    assert [attempt.outcome for attempt in rig.store.attempts(handle.id)] == ["lost", "succeeded"]


@pytest.mark.parametrize("name", ["exit", "cancel_itself"])
def test_a_job_that_ends_its_task_fails_alone(rig: Rig, name: str) -> None:
    """Neither sys.exit nor a cancellation of its own ends the worker, or sends the job round for ever."""
    worker = rig.start_worker()
    handle = stored(rig, name)
    until(lambda: handle.status().ended, "the job ended", worker.text)

    error = handle.job().error
    assert handle.status() is JobStatus.FAILED
    assert error is not None
    assert error.code == "internal"
    assert submit(command(), rig.settings()).result(timeout=120) == {}
    assert worker.terminate() == 0


@pytest.mark.parametrize("name", ["exit_later", "stop_loop"])
def test_a_loop_that_ends_ends_the_worker(rig: Rig, name: str) -> None:
    """With a code other than 0, also if a plug-in calls sys.exit(0)."""
    worker = rig.start_worker()
    stored(rig, name)

    code, last = end_of(worker)

    assert code == 1
    assert "the worker's runtime ended with an unexpected" in last


def test_a_job_that_hangs_on_a_fifo_stops_nobody(rig: Rig, tmp_path: Path) -> None:
    """More of them than Python's own pool has threads: others run, and SIGTERM ends the worker in time."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    worker = rig.start_worker(shutdown_grace_s=0.5)
    hanging = [stored(rig, "hang", path=str(fifo)) for _ in range((os.cpu_count() or 1) + 10)]
    for handle in hanging:
        until_running(handle)

    assert submit(command(), rig.settings()).result(timeout=120) == {}
    worker.process.terminate()
    code, last = end_of(worker)

    assert code == 1
    assert f"{len(hanging)} blocking calls of jobs, such as opening a file, did not end in time" in last
    assert {handle.status() for handle in hanging} == {JobStatus.QUEUED}


def test_a_job_that_ignores_its_cancellation_does_not_keep_the_worker(rig: Rig) -> None:
    """SIGTERM ends the worker after the grace period and the time of the abandonment."""
    worker = rig.start_worker(shutdown_grace_s=0.2)
    handle = stored(rig, "stubborn")
    until_running(handle)

    worker.process.terminate()
    code, last = end_of(worker)

    assert code == 1
    assert "code of a job or of a plug-in does not end" in last


def _delete(rig: Rig) -> None:
    for path in rig.folder.glob("jobs.db*"):
        if path.is_file():
            path.unlink()


def _replace(rig: Rig) -> None:
    with closing(sqlite3.connect(rig.folder / "jobs.db")) as source:
        source.execute("VACUUM INTO ?", (str(rig.folder / "copy.db"),))
    (rig.folder / "copy.db").replace(rig.folder / "jobs.db")


@pytest.mark.parametrize(("change", "said"), [(_delete, "deleted"), (_replace, "replaced")])
def test_a_worker_whose_database_file_is_gone_ends(rig: Rig, change: Any, said: str) -> None:
    """It says so, writes nothing more, and makes no new file."""
    worker = rig.start_worker(sweep_interval_s=60, poll_interval_s=1)
    handle = submit(command("sleep", arguments={"ms": 60_000}), rig.settings())
    until_running(handle)

    change(rig)
    # far before the next sweep
    code, last = end_of(worker, within_s=20)

    assert code == 1
    assert f"error: the job store's file was {said} while this process used it" in worker.text()
    assert "store_gone" in last or "file" in last
    if said == "deleted":
        assert not (rig.folder / "jobs.db").exists()


def test_a_worker_whose_home_is_removed_ends(tmp_path: Path) -> None:
    """With the database and the spool in it."""
    folder = tmp_path / "home"
    rig = Rig(tmp_path, f"sqlite:///{folder}/jobs.db", f"spool://localhost{folder}/spool")
    try:
        worker = rig.start_worker(home=folder)
        shutil.rmtree(folder)

        code, _ = end_of(worker)

        assert code == 1
        assert "the job store's file was deleted" in worker.text()
        assert not (folder / "jobs.db").exists()
    finally:
        rig.close()


def _spool_is_empty(rig: Rig) -> bool:
    return not list((rig.folder / "spool").rglob("*.msg"))


@pytest.mark.parametrize("working", [False, True], ids=["at the start", "at work"])
def test_a_worker_without_file_descriptors_goes_on_or_says_why(rig: Rig, working: bool) -> None:
    """A limit below what is open already: nothing can be opened any more, in whatever part of the worker."""
    worker = rig.start_worker(poll_interval_s=0.2)
    if working:
        submit(command(), rig.settings()).result(timeout=120)
        until(lambda: _spool_is_empty(rig), "the wake-up was read", worker.text)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (8, 4096))
    handles = [submit(command(), rig.settings()) for _ in range(12)]

    until(
        lambda: worker.process.poll() is not None or all(handle.status().ended for handle in handles),
        "the worker ended, or did its work",
        worker.text,
    )

    if worker.process.poll() is not None:
        code, last = end_of(worker)
        assert code == 1
        assert last.startswith("error: ")
        assert "Too many open files" in worker.text()
    else:
        assert worker.terminate() in (0, 1)


@pytest.mark.parametrize("limit", [64, 8])
def test_a_worker_that_starts_with_few_file_descriptors_works_or_says_why(rig: Rig, limit: int) -> None:
    """As under ``ulimit -n``, with jobs that wait for it; it never ends well with work left."""
    handles = [submit(command(), rig.settings()) for _ in range(12)]
    worker = rig.start_worker(ready=False, poll_interval_s=0.2)
    resource.prlimit(worker.process.pid, resource.RLIMIT_NOFILE, (limit, limit))

    until(
        lambda: worker.process.poll() is not None or all(handle.status().ended for handle in handles),
        "the worker ended, or did its work",
        worker.text,
    )

    if all(handle.status().ended for handle in handles):
        assert {handle.status() for handle in handles} == {JobStatus.SUCCEEDED}
    else:
        code, _ = end_of(worker)
        [*_, error] = [line for line in worker.text().splitlines() if line.startswith("error: ")]
        assert code != 0
        assert "Too many open files" in error
        assert "hint: raise the number of files" in worker.text()
