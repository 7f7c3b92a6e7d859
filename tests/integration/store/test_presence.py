"""Presence: the locks of worker processes and of sessions, and what an owner writes about its absence."""

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text

from nsai_work.job import Job
from nsai_work.store import AsyncStore, Claim, ClaimRequest, open_store
from nsai_work.store.maintenance.leader import Election
from nsai_work.store.maintenance.workers import register_worker
from nsai_work.store.presence import ProcessLock, ended_processes, remove_released
from nsai_work.store.records import Absence
from nsai_work.store.schema import workers
from nsai_work.store.worker_id import WorkerId
from tests.rig import until, without_notifications
from tests.working_store import WorkingStore, open_working_store

MakeJob = Callable[..., Job]


def test_a_process_lock_ends_with_its_process(tmp_path: Path) -> None:
    """SIGKILL releases it; a lock of a process that lives, or that never was, says nothing."""
    database = tmp_path / "jobs.db"
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        ProcessLock(database, "killed").acquire()
        os.write(writing, b"locked")
        signal.pause()
    assert os.read(reading, 6) == b"locked"
    mine = ProcessLock(database, "mine")
    mine.acquire()
    names = ["killed", "mine", "unknown"]
    assert ended_processes(database, names) == frozenset()

    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)

    assert ended_processes(database, names) == {"killed"}
    remove_released(database, keep=["killed"])
    assert ended_processes(database, names) == {"killed"}
    remove_released(database, keep=[])
    assert ended_processes(database, names) == frozenset()
    assert len(list((tmp_path / "jobs.db-workers").iterdir())) == 1
    mine.release()
    assert not any((tmp_path / "jobs.db-workers").iterdir())
    for end in (reading, writing):
        os.close(end)


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    """Else a worker would seem to live for as long as any of its children."""
    database = tmp_path / "jobs.db"
    (status, hold), (told, tell) = os.pipe(), os.pipe()
    parent = os.fork()
    if parent == 0:
        lock = ProcessLock(database, "parent")
        lock.acquire()
        if os.fork() == 0:
            os.write(hold, b"." if not lock.held else b"x")
            os.read(told, 1)
            os._exit(0)
        signal.pause()
    assert os.read(status, 1) == b"."
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)

    assert ended_processes(database, ["parent"]) == {"parent"}
    os.write(tell, b".")
    for end in (status, hold, told, tell):
        os.close(end)


async def _absent(observer: AsyncStore, worker_id: str) -> Absence:
    return await observer.absent([worker_id])


def _worker(url: str, worker_id: str) -> AsyncStore:
    return AsyncStore(open_store(url).database, worker_id=worker_id)


async def _close(*stores: AsyncStore) -> None:
    for store in stores:
        await store.close()
        store.database.close()


def test_a_worker_is_present_from_its_first_operation_until_it_closes(url: str) -> None:
    """On either database, as another worker sees it."""

    async def scenario() -> None:
        worker, observer = _worker(url, "w"), _worker(url, "observer")
        await observer.run(lambda tx: None)
        await worker.run(lambda tx: None)
        assert worker.has_presence
        absence = await _absent(observer, "w")
        assert absence.worker_ids == frozenset()
        assert (absence.session_began_at is None) == (not observer.database.postgres)
        await _close(worker)
        # of an orderly end only the lack of a session is seen: such a worker has no jobs
        gone = {"w"} if observer.database.postgres else set()
        assert (await _absent(observer, "w")).worker_ids == gone
        await _close(observer)

    asyncio.run(scenario())


def _end_session(store: WorkingStore, worker: AsyncStore) -> None:
    pid = worker._queue.connection._connection.connection.driver_connection.info.backend_pid
    end = text("SELECT pg_terminate_backend(:pid, 10000)")
    store.database.run(lambda tx: tx.connection.execute(end, {"pid": pid}).all())


@pytest.mark.postgres
def test_a_broken_session_is_replaced_without_an_operation(postgres_store_url: str) -> None:
    """An idle worker is present again within moments; the new session begins later than the old one."""

    async def scenario() -> None:
        worker, observer = _worker(postgres_store_url, "w"), _worker(postgres_store_url, "observer")
        store = open_working_store(postgres_store_url)
        await observer.run(lambda tx: None)
        await worker.run(lambda tx: None)
        began_at, confirmed_at = worker.session_began_at, worker.session_confirmed_at
        assert began_at is not None
        assert confirmed_at is not None

        await asyncio.to_thread(_end_session, store, worker)

        await asyncio.to_thread(until, lambda: worker.session_began_at != began_at, "the worker is connected again")
        assert (await _absent(observer, "w")).worker_ids == frozenset()
        assert worker.session_began_at > began_at
        assert worker.session_confirmed_at >= confirmed_at
        await _close(worker, observer)
        store.close()

    asyncio.run(scenario())


@pytest.mark.postgres
def test_without_a_session_of_its_own_nobody_has_a_presence_or_judges(postgres_store_url: str) -> None:
    """As with ``notices=off``: the lease alone counts."""

    async def scenario() -> None:
        worker = _worker(without_notifications(postgres_store_url), "w")
        await worker.run(lambda tx: None)
        assert not worker.has_presence
        assert worker.session_confirmed_at is None
        assert (await _absent(worker, "never there")).worker_ids == frozenset()
        await _close(worker)

    asyncio.run(scenario())


def _register(store: WorkingStore, worker_id: str, has_presence: bool | None) -> None:
    me = WorkerId.of_this_process()
    store.database.run(register_worker, me, version="1", backends={}, has_presence=bool(has_presence))
    renamed = workers.update().where(workers.c.id == str(me)).values(id=worker_id, has_presence=has_presence)
    store.database.run(lambda tx: tx.connection.execute(renamed).rowcount)


def _die_with_a_lock(database: Path, worker_id: str) -> None:
    pid = os.fork()
    if pid == 0:
        ProcessLock(database, worker_id).acquire()
        os._exit(0)
    os.waitpid(pid, 0)


def test_a_worker_that_was_killed_is_shown_as_absent_at_once(store: WorkingStore, url: str) -> None:
    """Though it was seen a moment ago. One without a presence, and one that is there, are alive."""
    _register(store, "killed", has_presence=True)
    _register(store, "of an older version", has_presence=None)
    _register(store, "there", has_presence=True)
    if not store.database.postgres:
        _die_with_a_lock(Path(str(store.database.url.database)), "killed")

    async def states() -> dict[str, str]:
        there = _worker(url, "there")
        await there.run(lambda tx: None)
        found = {use.worker.id: use.state for use in store.worker_uses()}
        await _close(there)
        return found

    assert asyncio.run(states()) == {"killed": "absent", "of an older version": "alive", "there": "alive"}


def _grace(store: WorkingStore) -> float | None:
    (lease,) = store.leases()
    return lease.grace_s


def test_the_grace_is_that_of_the_owner_and_its_last_word(store: WorkingStore, make_job: MakeJob) -> None:
    """A claim writes it, a heartbeat changes it, and the next owner's replaces it, on either way of claiming."""
    _register(store, "w1", has_presence=True)
    store.submit([make_job()])
    (claim,) = store.claim(ClaimRequest("w1", 1, 10.0, grace_s=8.0))
    assert _grace(store) == 8.0
    store.heartbeat([claim], 10.0, {claim.job_id: 0.5})
    assert _grace(store) == 0.5
    store.reclaim(store.leases())
    (again,) = store.claim(ClaimRequest("w1", 1, 10.0, grace_s=8.0))
    assert _grace(store) == 8.0
    store.heartbeat([again], 10.0)
    assert _grace(store) is None


@pytest.mark.parametrize("has_presence", [False, None], ids=["behind a pooler", "of an older version"])
def test_an_owner_without_a_presence_has_no_grace(
    store: WorkingStore, make_job: MakeJob, has_presence: bool | None
) -> None:
    """Whatever an earlier owner wrote: an older version neither reads nor changes the column."""
    _register(store, "w1", has_presence)
    store.submit([make_job()])
    store.claim(ClaimRequest("w1", 1, 10.0, grace_s=8.0))

    assert _grace(store) is None


def test_several_graces_are_written_at_once(store: WorkingStore, make_job: MakeJob) -> None:
    """Of jobs that can be repeated, that cannot, and without one."""
    _register(store, "w1", has_presence=True)
    store.submit([make_job(id=name) for name in ("long", "short", "none")])
    claims: list[Claim] = []
    while len(claims) < 3:
        claims += store.claim(ClaimRequest("w1", 3, 10.0, grace_s=8.0))
    graces_s = {"long": 8.0, "short": 0.5}

    assert store.heartbeat(claims, 10.0, graces_s).held == {"long", "short", "none"}

    assert {lease.job_id: lease.grace_s for lease in store.leases()} == {**graces_s, "none": None}


def test_a_candidate_replaces_an_absent_leader_at_once(store: WorkingStore) -> None:
    """Only one with a presence: without one its silence alone counts."""
    _register(store, "w1", has_presence=True)
    _register(store, "w3", has_presence=None)
    run = store.database.run
    first, second, third = (Election("sweep", f"w{number}", 10) for number in (1, 2, 3))
    assert run(first.campaign)
    assert not run(second.campaign)
    assert second.rival == "w1"
    assert not run(second.campaign, {"w3"})

    assert run(second.campaign, {"w1"})

    run(second.resign)
    assert run(third.campaign)
    assert not run(second.campaign, {"w3"})
    assert second.rival is None
