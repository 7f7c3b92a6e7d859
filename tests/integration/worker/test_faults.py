"""Real worker processes, real signals, and services that go away."""

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from nsai_work import JobHandle, submit
from nsai_work.lifecycle import JobStatus
from tests.rig import Proxy, Rig, WorkerProcess, command, own_database, until, until_running

LEASE_S = 3.0


def _outcomes(rig: Rig, handle: JobHandle) -> list[str | None]:
    return [attempt.outcome for attempt in rig.store.attempts(handle.id)]


def test_a_killed_workers_job_is_taken_over(rig: Rig) -> None:
    """On the same machine a death is seen at once, long before the lease runs out; the job ends, and ends once."""
    first = rig.start_worker(lease_ttl_s=600)
    handle = submit(command("sleep", arguments={"ms": 1000}), rig.settings())
    until_running(handle)

    first.kill()
    rig.start_worker(lease_ttl_s=600)

    assert handle.result(timeout=60) == {"slept_ms": 1000}
    assert _outcomes(rig, handle) == ["lost", "succeeded"]


def _freeze(worker: WorkerProcess, rig: Rig) -> None:
    """Stop a worker between two transactions: in one, it would keep SQLite's lock, and all would wait for it."""
    while True:
        worker.signal(signal.SIGSTOP)
        # until all its threads have stopped, one may still take the lock
        os.waitpid(worker.process.pid, os.WUNTRACED)
        if _has_lock(rig, wait_s=0.1):
            return
        worker.signal(signal.SIGCONT)
        assert _has_lock(rig, wait_s=30), "the worker does not end its transaction"


def _has_lock(rig: Rig, wait_s: float) -> bool:
    """Whether SQLite's lock can be had, for a moment."""
    with closing(sqlite3.connect(rig.folder / "jobs.db", timeout=wait_s, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return False
        connection.execute("ROLLBACK")
        return True


def test_a_zombie_changes_nothing(embedded: Rig) -> None:
    """A worker that was frozen past its lease finds its job taken over: it writes nothing, and goes on working."""
    zombie = embedded.start_worker()
    handle = submit(command("sleep", arguments={"ms": 1000}), embedded.settings())
    until_running(handle)
    _freeze(zombie, embedded)
    embedded.start_worker()

    assert handle.result(timeout=60) == {"slept_ms": 1000}
    ended = embedded.store.get(handle.id)
    zombie.signal(signal.SIGCONT)
    until(lambda: "job.abandoned" in zombie.text(), "the zombie let go", zombie.text)

    assert embedded.store.get(handle.id) == ended
    assert _outcomes(embedded, handle) == ["lost", "succeeded"]
    assert zombie.terminate() == 0


def test_sigterm_hands_over(embedded: Rig) -> None:
    """A worker that is asked to leave gives its job back within the grace period; no attempt is used up."""
    first = embedded.start_worker(shutdown_grace_s=0.5, lease_ttl_s=600)
    handle = submit(command("sleep", arguments={"ms": 2000}), embedded.settings())
    until_running(handle)

    assert first.terminate() == 0
    assert handle.status() is JobStatus.QUEUED
    embedded.start_worker()

    assert handle.result(timeout=60) == {"slept_ms": 2000}
    assert _outcomes(embedded, handle) == ["released", "succeeded"]
    assert handle.job().attempt == 1


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Proxy]:
    """A way to RabbitMQ that can be cut."""
    parts = urlsplit(amqp_url)
    made = Proxy(parts.hostname or "127.0.0.1", parts.port or 5672)
    yield made
    made.close()


@pytest.mark.amqp
def test_a_broker_that_is_away_costs_latency_only(broker: Proxy, amqp_url: str, tmp_path: Path) -> None:
    """Away at submit and when the worker starts: the job is stored and worked. Back again: so are wake-ups."""
    user = urlsplit(amqp_url)._replace(netloc=f"127.0.0.1:{broker.port}").geturl()
    rig = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", user)
    try:
        broker.cut()
        begun = time.monotonic()
        handle = submit(command(), rig.settings())
        assert time.monotonic() - begun < 10
        worker = rig.start_worker(poll_interval_s=1, sweep_interval_s=0.5)
        assert handle.result(timeout=60) == {}

        broker.open()
        until(lambda: _wake_up_arrives(rig, worker.text), "a wake-up arrives again", worker.text, timeout_s=60)
        broker.cut()
        assert submit(command(), rig.settings()).result(timeout=60) == {}
        assert worker.process.poll() is None
        broker.open()
    finally:
        rig.close()


def _wake_up_arrives(rig: Rig, log: Callable[[], str]) -> bool:
    """Send a wake-up for a job that does not exist: the worker says so once it consumes again."""
    from nsai_work.client.connections import publisher
    from nsai_work.job import Priority
    from nsai_work.store import WakeUp

    publisher(rig.settings()).publish([WakeUp(job_id="nobody", fence=0, priority=Priority.BATCH)])
    time.sleep(0.2)
    return "wake.unknown_job" in log()


@pytest.fixture
def database(postgres_url: str) -> Iterator[tuple[Proxy, str, str]]:
    """A way to PostgreSQL that can be cut; the URL through it, and the one beside it."""
    with own_database(postgres_url) as direct:
        parts = urlsplit(direct)
        proxy = Proxy(parts.hostname or "127.0.0.1", parts.port or 5432)
        host = f"{parts.username}@127.0.0.1:{proxy.port}" if parts.username else f"127.0.0.1:{proxy.port}"
        yield proxy, parts._replace(netloc=host).geturl(), direct
        proxy.close()


@pytest.mark.postgres
@pytest.mark.parametrize(("away_s", "first_outcomes"), [(1.0, {"succeeded"}), (5.0, {"released", "lost"})])
def test_a_database_that_is_away(
    away_s: float, first_outcomes: set[str], database: tuple[Proxy, str, str], tmp_path: Path
) -> None:
    """For less than a lease: the worker holds its job and records its end afterwards. For longer: it stops the job
    in time, another (here itself, later) takes over. It never ends, and nothing is lost or doubled."""
    proxy, through, direct = database
    rig = Rig(tmp_path, through, f"spool://localhost{tmp_path}/spool")
    observer = Rig(tmp_path, direct, rig.broker_url, prefix=rig.prefix)
    try:
        worker = rig.start_worker(lease_ttl_s=LEASE_S)
        handle = submit(command("sleep", arguments={"ms": 3500}), observer.settings())
        until_running(handle)
        proxy.cut()
        time.sleep(away_s)
        if away_s > LEASE_S:
            until(lambda: "lease.overdue" in worker.text(), "the worker stopped in time", worker.text)
        proxy.open()

        assert handle.result(timeout=60) == {"slept_ms": 3500}
        outcomes = _outcomes(observer, handle)
        assert outcomes[0] in first_outcomes
        assert outcomes[-1] == "succeeded"
        assert len(outcomes) <= 2
        assert worker.process.poll() is None
    finally:
        rig.close()
        observer.close()
