"""Outages under the history checker: frozen workers, partitions, and a database that restarts.

Nothing is lost, nothing happens twice, and no function runs for two owners at once. The short forms last a second;
``make verify`` runs the long ones.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from nsai_work import JobHandle
from tests.rig import Proxy, WorkerProcess, new_database, until
from tests.verify.outage_site import Site, own_postgres

pytestmark = [pytest.mark.chaos, pytest.mark.postgres]

LONG = [
    pytest.param(kind, seconds, marks=[pytest.mark.long, pytest.mark.timeout(900)])
    for kind in ("cut", "hold")
    for seconds in (5.0, 60.0)
]
STOPPED_AFTER_S = 4.4
"""The absence after which an owner stops a function by itself, with the default grace."""


@pytest.fixture
def site(postgres_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site with a database of its own."""
    with ExitStack() as stack:
        yield Site(tmp_path, stack.enter_context(new_database(postgres_url)), stack)


def _owner_of_two(site: Site) -> tuple[WorkerProcess, Proxy, JobHandle, list[JobHandle]]:
    """Start a worker, the only one to claim a training job and a function, and another that stands by. Returns the
    first with the proxy to its database, and the jobs."""
    owner, proxy = site.worker(lease_ttl_s=15)
    _, of_standby = site.worker(lease_ttl_s=15)
    of_standby.cut()
    training, functions = site.submit()
    site.until_holding()
    until(lambda: training.steps(), "a step", owner.text)
    of_standby.open()
    return owner, proxy, training, functions


def _interrupt(proxy: Proxy, kind: str, seconds: float) -> None:
    getattr(proxy, kind)()
    time.sleep(seconds)
    proxy.open()


@pytest.mark.parametrize(("kind", "seconds"), [("cut", 1.0), *LONG])
def test_a_partition_between_a_worker_and_the_database(site: Site, kind: str, seconds: float) -> None:
    """Its connections are refused, or swallow everything. Where the owner is back before it must stop its function,
    it keeps it."""
    _, proxy, training, functions = _owner_of_two(site)

    _interrupt(proxy, kind, seconds)
    site.finish()

    site.require_whole(training, functions)
    if seconds < STOPPED_AFTER_S:
        assert site.outcomes(functions[0]) == ["succeeded"]
    if kind == "hold" and seconds < STOPPED_AFTER_S:
        # its session is there all the time
        assert site.outcomes(training) == ["succeeded"]


@pytest.mark.parametrize(("kind", "seconds"), [("hold", 1.0), *LONG])
def test_a_partition_between_workers_and_the_service(site: Site, kind: str, seconds: float) -> None:
    """The job goes on where it was."""
    for _ in range(2):
        site.worker(lease_ttl_s=15)
    training, functions = site.submit()
    until(lambda: training.steps(), "a step")

    _interrupt(site.service, kind, seconds)
    site.finish()

    site.require_whole(training, functions)
    assert "lost" not in site.outcomes(training)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_that_is_frozen_for_a_minute(site: Site) -> None:
    """Its jobs go to another worker after its lease, its function ends before, and it finds all of it lost."""
    frozen, _, training, functions = _owner_of_two(site)

    frozen.signal(signal.SIGSTOP)
    time.sleep(60)
    frozen.signal(signal.SIGCONT)
    until(lambda: frozen.text().count("job.abandoned") == 2, "it has abandoned both", frozen.text)
    site.finish()

    site.require_whole(training, functions)
    assert site.outcomes(functions[0]) == ["lost", "succeeded"]


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_restarts_under_ten_workers(tmp_path: Path, mode: str) -> None:
    """A server of this test's own, in order and as after a crash: every worker keeps its function."""
    with own_postgres() as server, ExitStack() as stack:
        site = Site(tmp_path, server.url, stack)
        workers = [site.worker(lease_ttl_s=15)[0] for _ in range(10)]
        training, functions = site.submit(functions=20)
        site.until_holding(functions=20)
        until(lambda: training.steps(), "a step")

        server.control("restart", "-m", mode)
        until(lambda: all(worker.process.poll() is None for worker in workers), "all workers live")
        before = len(training.steps())
        until(lambda: training.status().ended or len(training.steps()) > before, "the training goes on")
        site.finish()

        site.require_whole(training, functions)
        assert [site.outcomes(function) for function in functions] == [["succeeded"]] * 20
