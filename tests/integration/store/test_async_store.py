"""AsyncStore: pending operations share a commit, and a failed one does not affect the others."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.event import listen

from crucible.errors import CrucibleError
from nsai_work.errors import LeaseLost, StoreFull, StoreGone, StoreUnavailable
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import AsyncStore, ClaimRequest, JobFilter, Outcome, Store, Tx, open_store, parse_url
from nsai_work.store.engine.commit_queue import CommitQueue
from nsai_work.store.journal.runs import append_event
from nsai_work.store.submit.general import submit
from tests.working_store import WorkingStore, open_working_store

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def test_pending_operations_share_commits(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """A hundred finishes and events take a few commits, and each caller gets its result."""
    store.submit([make_job() for _ in range(100)])
    claims = store.claim(claim_request(limit=100))
    commits: list[object] = []
    listen(store.database.engine(), "commit", commits.append)

    async def scenario() -> None:
        async_store = AsyncStore(store.database)
        await asyncio.gather(*(async_store.run(append_event, claim, "note", {}) for claim in claims))
        await asyncio.gather(*(async_store.finish(claim, Outcome.succeeded()) for claim in claims))
        await async_store.close()

    asyncio.run(scenario())

    assert len(commits) <= 20
    assert len(store.list_jobs(JobFilter(status=JobStatus.SUCCEEDED), limit=200)) == 100


def test_a_failed_operation_does_not_affect_the_others(store: Store, make_job: MakeJob) -> None:
    """Whatever fails in one operation, the others are committed once, and nothing of the failed one is."""

    def write_then_raise(tx: Tx) -> None:
        submit(tx, [make_job(name="half")])
        raise LookupError("on purpose")

    def write_then_break(tx: Tx) -> None:
        submit(tx, [make_job(name="half")])
        tx.connection.execute(text("SELECT no_such_column FROM nsai_jobs"))

    async def scenario() -> list[object]:
        async_store = AsyncStore(store.database)
        good = [async_store.run(submit, [make_job(name="good")]) for _ in range(10)]
        answers = await asyncio.gather(
            *good[:5],
            async_store.run(write_then_raise),
            *good[5:],
            async_store.run(write_then_break),
            return_exceptions=True,
        )
        await async_store.close()
        return list(answers)

    answers = asyncio.run(scenario())

    assert isinstance(answers[5], LookupError)
    assert "no_such_column" in str(answers[11])
    assert [job.name for job in store.list_jobs()] == ["good"] * 10


def test_only_the_stale_owner_of_a_merged_operation_gets_an_error(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """In a merged operation each item has its own result."""
    store.submit([make_job(), make_job()])
    stale, good = store.claim(claim_request(limit=2))
    store.requeue(stale, Outcome.released("handed over"))

    async def scenario() -> list[object]:
        async_store = AsyncStore(store.database)
        ends = [(claim, Outcome.succeeded()) for claim in (stale, good)]
        answers = await asyncio.gather(*(async_store.finish(*end) for end in ends), return_exceptions=True)
        await async_store.close()
        return list(answers)

    lost, done = asyncio.run(scenario())

    assert isinstance(lost, LeaseLost)
    assert done is None


def test_an_unavailable_database_raises_after_the_patience(unused_tcp_port: int) -> None:
    """A call fails with a clear error, which does not contain the password."""
    url = f"postgresql+psycopg://me:secret-word@127.0.0.1:{unused_tcp_port}/nowhere"
    store = open_store(url)

    async def scenario() -> None:
        async_store = AsyncStore(store.database, patience_s=0.3, retry_every_s=0.05)
        with pytest.raises(StoreUnavailable) as caught:
            await async_store.claim(ClaimRequest("w", 1, 10))
        assert "secret-word" not in f"{caught.value!r} {caught.value.failure()}"
        await async_store.close()
        with pytest.raises(StoreUnavailable, match="closed"):
            await async_store.claim(ClaimRequest("w", 1, 10))

    asyncio.run(scenario())
    with pytest.raises(StoreUnavailable, match="does not answer"):
        store.submit([])
    store.close()


@pytest.fixture
def unused_tcp_port() -> int:
    """A local port on which no process listens."""
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.mark.postgres
def test_a_dead_connection_is_replaced(postgres_store_url: str, make_job: MakeJob) -> None:
    """The call that meets a dead connection succeeds on a new one."""
    store, other = open_store(postgres_store_url), open_store(postgres_store_url)
    store.submit([make_job()])
    with store.database.transaction() as tx:
        pid = tx.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()

    other.database.run(lambda tx: tx.connection.execute(text("SELECT pg_terminate_backend(:pid)"), {"pid": pid}))

    assert len(store.list_jobs()) == 1
    store.close()
    other.close()


def test_a_full_disk_raises_and_writes_nothing(
    sqlite_url: str, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """When SQLite has no space left, callers get StoreFull, and the existing data stays complete and readable."""
    store = open_working_store(sqlite_url)
    store.submit([make_job()])
    engine = store.database.engine()
    pages = store.database.read(lambda tx: tx.connection.execute(text("PRAGMA page_count")).scalar_one())
    listen(engine, "connect", lambda raw, _: raw.execute(f"PRAGMA max_page_count = {pages + 4}"))
    engine.dispose()
    large = {"payload": {"command": "x", "arguments": {"text": "x" * 100_000}}}

    with pytest.raises(StoreFull, match="disk of the job store is full"):
        store.submit([make_job(), make_job(**large)])

    async def scenario() -> list[object]:
        async_store = AsyncStore(store.database)
        jobs = [make_job(**large), make_job()]
        answers = await asyncio.gather(*(async_store.run(submit, [job]) for job in jobs), return_exceptions=True)
        await async_store.close()
        return list(answers)

    full, small = asyncio.run(scenario())
    assert isinstance(full, StoreFull)
    assert not isinstance(small, CrucibleError)
    assert len(store.list_jobs()) == 2
    assert len(store.claim(claim_request(limit=5))) == 2
    store.close()


def test_a_forked_process_gets_connections_of_its_own(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A store whose doors were both used before a fork works in both processes."""
    store.submit([make_job(), make_job(), make_job()])
    assert len(store.claim(claim_request())) == 1
    child = os.fork()
    if child == 0:
        try:
            store.submit([make_job()])
            assert len(store.claim(claim_request("child"))) == 1
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)

    assert os.waitstatus_to_exitcode(status) == 0
    store.submit([make_job()])
    assert len(store.list_jobs()) == 5
    assert len(store.claim(claim_request(limit=5))) == 3


def test_a_missing_folder_is_created(tmp_path: Path) -> None:
    """SQLite needs only a path."""
    store = open_store(parse_url(f"sqlite:///{tmp_path}/deep/in/jobs.db"))
    store.ping()
    store.close()


def test_a_thread_that_dies_is_an_error_of_every_call(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the pending ones and of the later ones: nobody waits for it for ever."""

    async def scenario() -> None:
        async_store = AsyncStore(store.database)
        assert await async_store.running_leases() == []
        async_store.require_usable()

        def die(self: CommitQueue) -> list[object]:
            raise OSError("EBADF")

        monkeypatch.setattr(CommitQueue, "next_group", die)
        # the first call is taken by the thread that waits already, in the code of before
        answers = await asyncio.gather(*(async_store.running_leases() for _ in range(3)), return_exceptions=True)
        answers += await asyncio.gather(async_store.running_leases(), return_exceptions=True)

        assert isinstance(answers[-1], StoreUnavailable)
        assert all(answer == [] or isinstance(answer, StoreUnavailable) for answer in answers)
        with pytest.raises(StoreUnavailable, match="has ended: OSError"):
            async_store.require_usable()
        await async_store.close()

    asyncio.run(scenario())


@pytest.mark.parametrize("replaced", [False, True])
def test_a_file_that_is_gone_is_neither_written_nor_made_again(
    sqlite_url: str, tmp_path: Path, make_job: MakeJob, replaced: bool
) -> None:
    """By any process that has it open: what it wrote would be lost."""
    path = tmp_path / "jobs.db"
    opened = open_store(sqlite_url)
    opened.submit([make_job()])
    copy = path.read_bytes()
    for file in tmp_path.glob("jobs.db*"):
        file.unlink()
    if replaced:
        (tmp_path / "other").write_bytes(copy)
        (tmp_path / "other").replace(path)

    for call in (opened.ping, lambda: opened.submit([make_job()]), opened.list_jobs):
        with pytest.raises(StoreGone, match="replaced" if replaced else "deleted"):
            call()

    assert path.exists() == replaced
    # once closed, it opens whatever file is there
    opened.close()
    if replaced:
        opened.ping()
        opened.close()
