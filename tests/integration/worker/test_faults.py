"""Worker processes that are killed, frozen or terminated, and services that are unavailable."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsai_work import JobHandle, submit
from nsai_work.lifecycle import JobStatus
from tests.rig import Proxy, Rig, command, new_database, until, until_running

OUTAGE_S = 1.0
JOB_MS = 3000
"""The duration of a job during which its worker is killed or frozen, also on a machine that is busy otherwise."""


def _outcomes(rig: Rig, handle: JobHandle) -> list[str | None]:
    return [attempt.outcome for attempt in rig.store.attempts(handle.id)]


def test_the_job_of_a_killed_worker_is_taken_over(rig: Rig) -> None:
    """On the same machine the death is detected at once, long before the lease expires. The job ends once."""
    first = rig.start_worker(lease_ttl_s=600)
    handle = submit(command("sleep", arguments={"ms": JOB_MS}), rig.settings())
    until_running(handle)

    first.kill()
    rig.start_worker(lease_ttl_s=600)

    assert handle.result(timeout=120) == {"slept_ms": JOB_MS}
    assert _outcomes(rig, handle) == ["lost", "succeeded"]


def test_sigterm_hands_over(embedded: Rig) -> None:
    """The worker requeues its job within the grace period; the attempt does not count."""
    first = embedded.start_worker(shutdown_grace_s=0.5, lease_ttl_s=600)
    handle = submit(command("sleep", arguments={"ms": 2000}), embedded.settings())
    until_running(handle)

    assert first.terminate() == 0
    assert handle.status() is JobStatus.QUEUED
    embedded.start_worker()

    assert handle.result(timeout=120) == {"slept_ms": 2000}
    assert _outcomes(embedded, handle) == ["released", "succeeded"]
    assert handle.job().attempt == 1


@pytest.fixture
def broker(amqp_url: str) -> Iterator[Proxy]:
    """A proxy to RabbitMQ."""
    proxy = Proxy(amqp_url)
    yield proxy
    proxy.close()


@pytest.mark.amqp
def test_an_unavailable_broker_costs_latency_only(broker: Proxy, tmp_path: Path) -> None:
    """During submit and worker start, the job is stored and run. Once the broker is back, wake-ups arrive."""
    rig = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", broker.url)
    try:
        broker.cut()
        started_at = time.monotonic()
        handle = submit(command(), rig.settings())
        assert time.monotonic() - started_at < 10
        worker = rig.start_worker(poll_interval_s=1, sweep_interval_s=0.5)
        assert handle.result(timeout=120) == {}

        broker.open()
        until(lambda: _wake_up_arrives(rig, worker.text), "a wake-up arrives again", worker.text, timeout_s=60)
        broker.cut()
        assert submit(command(), rig.settings()).result(timeout=120) == {}
        assert worker.process.poll() is None
        broker.open()
    finally:
        rig.close()


def _wake_up_arrives(rig: Rig, log: Callable[[], str]) -> bool:
    """Send a wake-up of an unknown job, which the worker logs once it consumes again."""
    from nsai_work.client.connections import publisher
    from nsai_work.job import Priority
    from nsai_work.store import WakeUp

    publisher(rig.settings()).publish([WakeUp(job_id="nobody", fence=0, priority=Priority.BATCH)])
    time.sleep(0.2)
    return "wake.unknown_job" in log()


@pytest.fixture
def database(postgres_url: str) -> Iterator[tuple[Proxy, str]]:
    """A proxy to PostgreSQL, and the direct URL."""
    with new_database(postgres_url) as direct:
        proxy = Proxy(direct)
        yield proxy, direct
        proxy.close()


@pytest.mark.postgres
@pytest.mark.parametrize(
    ("lease_s", "first_outcomes"), [(20.0, {"succeeded"}), (2.0, {"released", "lost"})], ids=["short", "long"]
)
def test_a_database_outage(
    lease_s: float, first_outcomes: set[str], database: tuple[Proxy, str], tmp_path: Path
) -> None:
    """Shorter than a lease: the worker keeps its job, and records the outcome afterwards. Longer: it stops the job
    in time, and a worker (here the same) claims it again. The worker survives, and nothing is lost or run twice."""
    proxy, direct = database
    rig = Rig(tmp_path, proxy.url, f"spool://localhost{tmp_path}/spool")
    observer = Rig(tmp_path, direct, rig.broker_url, prefix=rig.prefix)
    try:
        worker = rig.start_worker(lease_ttl_s=lease_s)
        handle = submit(command("sleep", arguments={"ms": 3500}), observer.settings())
        until_running(handle)
        proxy.cut()
        time.sleep(OUTAGE_S)
        if "succeeded" not in first_outcomes:
            until(lambda: "lease.overdue" in worker.text(), "the worker stopped the job in time", worker.text)
        proxy.open()

        assert handle.result(timeout=120) == {"slept_ms": 3500}
        outcomes = _outcomes(observer, handle)
        assert outcomes[0] in first_outcomes
        assert outcomes[-1] == "succeeded"
        assert len(outcomes) <= 2
        assert worker.process.poll() is None
    finally:
        rig.close()
        observer.close()
