"""Isolated functions of frozen workers: they go on for as long as the job is their worker's, and no longer."""

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from nsai_work import JobHandle, submit
from nsai_work.job import Job
from tests.rig import Rig, WorkerProcess, until

LEASE_S = 5.0


@pytest.fixture
def ticks(tmp_path: Path) -> Path:
    """The file to which each call of the function writes its number again and again."""
    return tmp_path / "ticks"


def _start(rig: Rig, ticks: Path, lease_ttl_s: float) -> tuple[WorkerProcess, JobHandle]:
    rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests.functions"
    worker = rig.start_worker(lease_ttl_s=lease_ttl_s)
    payload = {
        "command": "tests.functions:tick",
        "arguments": {"file": str(ticks), "until": str(ticks.with_name("done"))},
        "options": {"isolated": True},
    }
    handle = submit(Job.parse({"kind": "tool_call", "backend": "python", "payload": payload}), rig.settings())
    until(ticks.exists, "the function runs", worker.text)
    return worker, handle


def _freeze(worker: WorkerProcess, rig: Rig) -> None:
    """Stop a worker between two transactions: within one it would hold SQLite's lock and block everyone."""
    while True:
        worker.signal(signal.SIGSTOP)
        # until all threads have stopped, one may still acquire the lock
        os.waitpid(worker.process.pid, os.WUNTRACED)
        if _can_lock(rig, wait_s=0.1):
            return
        worker.signal(signal.SIGCONT)
        assert _can_lock(rig, wait_s=30), "the worker has not ended its transaction"


def _can_lock(rig: Rig, wait_s: float) -> bool:
    """Acquire and release SQLite's lock. Returns whether that succeeded."""
    with closing(sqlite3.connect(rig.folder / "jobs.db", timeout=wait_s, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def _size(ticks: Path) -> int:
    return ticks.stat().st_size


def test_it_ends_before_the_next_owner_starts_it(embedded: Rig, ticks: Path) -> None:
    """Its worker cannot stop it, so it stops itself; a frozen worker that continues abandons the job."""
    frozen, handle = _start(embedded, ticks, LEASE_S)
    _freeze(frozen, embedded)
    embedded.start_worker(lease_ttl_s=LEASE_S)
    until(lambda: "2" in ticks.read_text().split(), "another owner has started it", frozen.text)
    owned = embedded.store.attempts(handle.id)[0]

    frozen.signal(signal.SIGCONT)
    until(lambda: "job.abandoned" in frozen.text(), "its worker has abandoned the job", frozen.text)
    assert embedded.store.attempts(handle.id)[0] == owned
    ticks.with_name("done").touch()

    assert handle.result(timeout=60) == {"attempt": 2}
    seen = ticks.read_text().split()
    assert seen == sorted(seen), "the first went on after the second had begun"
    outcomes = [attempt.outcome for attempt in embedded.store.attempts(handle.id)]
    assert (outcomes[0], outcomes[-1]) == ("lost", "succeeded")
    assert frozen.terminate() == 0


def test_a_worker_that_is_back_in_time_loses_nothing(embedded: Rig, ticks: Path) -> None:
    """The function does not notice, and its result counts."""
    frozen, handle = _start(embedded, ticks, 600)
    _freeze(frozen, embedded)
    before = _size(ticks)
    until(lambda: _size(ticks) > before, "the function goes on")
    frozen.signal(signal.SIGCONT)
    ticks.with_name("done").touch()

    assert handle.result(timeout=60) == {"attempt": 1}
    assert [attempt.outcome for attempt in embedded.store.attempts(handle.id)] == ["succeeded"]
