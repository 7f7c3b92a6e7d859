"""Deaths, cuts, restarts and freezes on PostgreSQL, where a session that has ended may be that of a live worker."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlalchemy import text

from nsai_work import JobHandle, submit
from nsai_work.job import Job
from tests.rig import Proxy, Rig, WorkerProcess, command, new_database, until, until_running

pytestmark = pytest.mark.postgres

ENDLESS_S = 600.0
"""A lease that expires in no test, so that a takeover is by presence alone."""
LONG_GRACE_S, SHORT_GRACE_S = 20.0, 4.0
CUT_S = 0.7


class Rigs:
    """A database with workers that each have a connection of their own to it, which can be cut."""

    def __init__(self, folder: Path, direct: str, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.observer = Rig(folder, direct, f"spool://localhost{folder}/spool")
        stack.callback(self.observer.close)

    def worker(
        self, *, lease_ttl_s: float = ENDLESS_S, grace_s: float = LONG_GRACE_S, **settings: float
    ) -> tuple[WorkerProcess, Proxy]:
        """A worker that is connected, and the proxy to its database."""
        proxy = Proxy(self.observer.database_url)
        self._stack.callback(proxy.close)
        folder = self.folder / f"rig {len(list(self.folder.glob('rig *')))}"
        folder.mkdir()
        rig = Rig(folder, proxy.url, self.observer.broker_url, prefix=self.observer.prefix)
        rig.variables["NSAI_WORK_PYTHON_ALLOW"] = "tests.functions"
        self._stack.callback(rig.close)
        return rig.start_worker(lease_ttl_s=lease_ttl_s, presence_grace_s=grace_s, **settings), proxy

    def submit(self, job: Job) -> JobHandle:
        """Submit a job, and return when it runs."""
        handle = submit(job, self.observer.settings())
        until_running(handle)
        return handle

    def outcomes(self, handle: JobHandle) -> list[str | None]:
        """The outcomes of a job's attempts."""
        return [attempt.outcome for attempt in self.observer.store.attempts(handle.id)]

    def reasons(self, handle: JobHandle) -> list[object]:
        """Why a job went back to the queue."""
        return [event.data["reason"] for event in handle.events() if event.data.get("crashes")]

    def end_sessions(self) -> None:
        """End the sessions of all workers, as an administrator or a restart would."""
        ended = text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database()"
            " AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1)"
        )
        self.observer.store.database.run(lambda tx: tx.connection.execute(ended).all())


@pytest.fixture
def rigs(postgres_url: str, tmp_path: Path) -> Iterator[Rigs]:
    """A database of this test's own."""
    with ExitStack() as stack:
        yield Rigs(tmp_path, stack.enter_context(new_database(postgres_url)), stack)


def test_an_owner_that_is_back_within_the_grace_loses_nothing(rigs: Rigs) -> None:
    """Its session is ended, then its network is away for a moment: both times it replaces the session, and goes
    on."""
    _, proxy = rigs.worker()
    handle = rigs.submit(command("sleep", arguments={"ms": 6000}))
    rigs.worker()

    rigs.end_sessions()
    time.sleep(CUT_S)
    proxy.cut()
    time.sleep(CUT_S)
    proxy.open()

    assert handle.result(timeout=120) == {"slept_ms": 6000}
    assert rigs.outcomes(handle) == ["succeeded"]


def test_nobody_is_buried_after_a_restart_of_the_database(rigs: Rigs) -> None:
    """All sessions end, and all connections are refused for a moment: every worker keeps its jobs."""
    proxies = [rigs.worker()[1] for _ in range(3)]
    handles = [rigs.submit(command("sleep", arguments={"ms": 5000})) for _ in range(6)]

    for proxy in proxies:
        proxy.cut()
    rigs.end_sessions()
    time.sleep(CUT_S)
    for proxy in reversed(proxies):
        proxy.open()

    assert [handle.result(timeout=120) for handle in handles] == [{"slept_ms": 5000}] * 6
    assert [rigs.outcomes(handle) for handle in handles] == [["succeeded"]] * 6


def test_an_outcome_waits_for_the_database(rigs: Rigs) -> None:
    """A job that ends while the database is away is not run again: its owner goes on trying to say so."""
    worker, proxy = rigs.worker(grace_s=ENDLESS_S, store_timeout_s=0.2)
    handle = rigs.submit(command("sleep", arguments={"ms": 500}))

    proxy.cut()
    until(lambda: "job.not_yet_recorded" in worker.text(), "it has ended", worker.text)
    time.sleep(CUT_S)
    proxy.open()

    assert handle.result(timeout=120) == {"slept_ms": 500}
    assert rigs.outcomes(handle) == ["succeeded"]


def test_a_frozen_owner_is_left_to_its_lease(rigs: Rigs) -> None:
    """Its session is there, since the kernel answers for it; nobody takes its job before the lease has expired."""
    frozen, _ = rigs.worker(lease_ttl_s=3)
    handle = rigs.submit(command("sleep", arguments={"ms": 6000}))
    frozen.signal(signal.SIGSTOP)
    rigs.worker(lease_ttl_s=3)

    assert handle.result(timeout=120) == {"slept_ms": 6000}
    assert rigs.outcomes(handle) == ["lost", "succeeded"]
    assert rigs.reasons(handle) == ["lease_expired"]
    ended = rigs.observer.store.get(handle.id)
    frozen.signal(signal.SIGCONT)
    until(lambda: "job.abandoned" in frozen.text() or frozen.process.poll() is not None, "it noticed", frozen.text)
    assert rigs.observer.store.get(handle.id) == ended


@pytest.mark.parametrize("isolated", [False, True], ids=["thread", "process"])
def test_no_function_runs_twice_at_once(rigs: Rigs, isolated: bool) -> None:
    """Its owner is cut off for longer than the grace: it stops the function, and only then another starts it."""
    owner, proxy = rigs.worker(grace_s=SHORT_GRACE_S)
    ticks = rigs.folder / "ticks"
    payload = {
        "command": "tests.functions:tick",
        "arguments": {"file": str(ticks), "until": str(rigs.folder / "done")},
        "options": {"isolated": isolated},
    }
    handle = rigs.submit(Job.parse({"kind": "tool_call", "backend": "python", "payload": payload}))
    until(ticks.exists, "the function runs", owner.text)
    rigs.worker(grace_s=SHORT_GRACE_S)

    proxy.cut()
    until(lambda: "2" in ticks.read_text().split(), "another owner has started it", owner.text)
    (rigs.folder / "done").touch()

    assert handle.result(timeout=120) == {"attempt": 2}
    assert rigs.reasons(handle) == ["worker_absent"]
    assert "lease.session_lost" in owner.text()
    seen = ticks.read_text().split()
    assert seen == sorted(seen), "the first owner went on after the second had begun"
