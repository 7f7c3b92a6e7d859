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

PATIENT = {"lease_ttl_s": 120, "presence_grace_s": 60}
"""Far longer than the outages that an owner has to survive with its jobs, also on a busy machine."""
DEFAULT = {"lease_ttl_s": 15, "presence_grace_s": 8}
SHORT_S, MINUTE_S = 1.0, 60.0
LONG = [
    pytest.param(kind, seconds, marks=[pytest.mark.long, pytest.mark.timeout(900)])
    for kind in ("cut", "hold")
    for seconds in (5.0, MINUTE_S)
]


@pytest.fixture
def site(postgres_url: str, tmp_path: Path) -> Iterator[Site]:
    """A site with a database of its own."""
    with ExitStack() as stack:
        yield Site(tmp_path, stack.enter_context(new_database(postgres_url)), stack)


def _owner_of_two(
    site: Site, settings: dict[str, float]
) -> tuple[WorkerProcess, Proxy, JobHandle, list[JobHandle]]:
    """Start a worker, the only one to claim a training job and a function, and another that stands by. Returns the
    first with the proxy to its database, and the jobs."""
    owner, proxy = site.worker(**settings)
    _, of_standby = site.worker(**settings)
    of_standby.cut()
    training, functions = site.submit()
    site.until_holding()
    until(training.steps, "a step", owner.text)
    of_standby.open()
    return owner, proxy, training, functions


def _interrupt(proxy: Proxy, kind: str, seconds: float) -> None:
    getattr(proxy, kind)()
    time.sleep(seconds)
    proxy.open()


@pytest.mark.parametrize(("kind", "seconds"), [("cut", SHORT_S), *LONG])
def test_a_partition_between_a_worker_and_the_database(site: Site, kind: str, seconds: float) -> None:
    """Its connections are refused, or swallow everything. An owner that is back within the grace keeps its
    function, and within the lease its training job, if its session was there all the time."""
    outlived = seconds < MINUTE_S
    _, proxy, training, functions = _owner_of_two(site, PATIENT if outlived else DEFAULT)

    _interrupt(proxy, kind, seconds)
    site.finish()

    site.require_whole(training, functions)
    if outlived:
        assert site.outcomes(functions[0]) == ["succeeded"]
    if outlived and kind == "hold":
        assert site.outcomes(training) == ["succeeded"]


@pytest.mark.parametrize(("kind", "seconds"), [("hold", SHORT_S), *LONG])
def test_a_partition_between_workers_and_the_service(site: Site, kind: str, seconds: float) -> None:
    """The job goes on where it was, and nobody takes it from its owner."""
    _, _, training, functions = _owner_of_two(site, PATIENT)

    _interrupt(site.service, kind, seconds)
    site.finish()

    site.require_whole(training, functions)
    assert "lost" not in site.outcomes(training)


@pytest.mark.long
@pytest.mark.timeout(900)
def test_a_worker_that_is_frozen_for_a_minute(site: Site) -> None:
    """Its jobs go to another worker after its lease, its function ends before, and it finds both lost."""
    frozen, _, training, functions = _owner_of_two(site, DEFAULT)

    frozen.signal(signal.SIGSTOP)
    time.sleep(MINUTE_S)
    frozen.signal(signal.SIGCONT)
    until(lambda: frozen.text().count("job.abandoned") >= 2, "it has abandoned both", frozen.text)
    site.finish()

    site.require_whole(training, functions)
    for handle in (training, *functions):
        outcomes = site.outcomes(handle)
        assert (outcomes[0], outcomes[-1]) == ("lost", "succeeded")


@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_restarts_under_ten_workers(tmp_path: Path, mode: str) -> None:
    """A server of this test's own, in order and as after a crash: every worker keeps its functions."""
    with own_postgres() as server, ExitStack() as stack:
        site = Site(tmp_path, server.url, stack)
        workers = [site.worker("--concurrency", "3", **PATIENT)[0] for _ in range(10)]
        training, functions = site.submit(functions=20)
        site.until_holding(functions=20)
        until(training.steps, "a step")

        server.control("restart", "-m", mode)
        before = len(training.steps())
        until(lambda: len(training.steps()) > before, "the training goes on")
        assert all(worker.process.poll() is None for worker in workers)
        site.finish()

        site.require_whole(training, functions)
        assert [site.outcomes(function) for function in functions] == [["succeeded"]] * 20
