"""Notices: a claim that stands by is made when a job becomes ready, wherever that happens."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from nsai_work.job import Job
from nsai_work.store import AsyncStore, Claim, ClaimRequest, Outcome, StandingClaim, open_store
from tests.rig import without_notices
from tests.working_store import WorkingStore, open_working_store

pytestmark = pytest.mark.postgres

MakeJob = Callable[..., Job]
Want = Callable[..., ClaimRequest]

PATIENCE_S = 30.0


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[AsyncStore]:
    """A worker's side of the store, connected, and told of nothing yet."""
    store = open_store(url)
    face = AsyncStore(store.database)
    # it listens once its first operation is done, and takes that for a notice, since one may have been missed
    await face.run(lambda tx: None)
    first = face.stand_by(ClaimRequest("w", 1, 10.0))
    assert first is not None
    await taken(first)
    yield face
    await face.close()
    store.close()


async def taken(standing: StandingClaim) -> list[str]:
    """The jobs that a standing claim has taken."""
    async with asyncio.timeout(PATIENCE_S):
        return [claim.job_id for claim in await standing.done]


def stand_by(face: AsyncStore, wanted: ClaimRequest) -> StandingClaim:
    """Let a claim stand by."""
    standing = face.stand_by(wanted)
    assert standing is not None
    return standing


@pytest.fixture
def others(postgres_store_url: str) -> Iterator[WorkingStore]:
    """The store as another process sees it."""
    store = open_working_store(postgres_store_url)
    yield store
    store.close()


@pytest.mark.parametrize("fields", [{}, {"tags": ["t"]}, {"tenant_id": "new"}], ids=str)
def test_a_job_that_is_submitted_elsewhere_is_claimed_at_once(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want, fields: dict[str, object]
) -> None:
    """Whichever way it is stored, nobody has to look for it."""

    async def story() -> None:
        async with worker(postgres_store_url) as face:
            for number in range(3):
                standing = stand_by(face, wanted())
                await asyncio.to_thread(others.submit, [make_job(id=f"job {number}", **fields)])
                assert await taken(standing) == [f"job {number}"]
                assert standing.began_at > 0

    asyncio.run(story())


def test_whatever_makes_a_job_ready_gives_notice(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want
) -> None:
    """A job that was given back, one whose dependency has ended, and one that was opened again."""

    async def story() -> None:
        async with worker(postgres_store_url) as face:

            async def claim_after(act: Callable[..., object], *args: object) -> Claim:
                standing = stand_by(face, wanted())
                await asyncio.to_thread(act, *args)
                while not await taken(standing):
                    # a notice of something before
                    standing = stand_by(face, wanted())
                return (await standing.done)[0]

            others.submit([make_job(id="first"), make_job(id="second", constraints={"depends_on": ["first"]})])
            (mine,) = others.claim(wanted())
            first = await claim_after(others.requeue, mine, Outcome.retried("handed over"))
            assert first.job_id == "first"
            second = await claim_after(others.finish, first, Outcome.succeeded())
            assert second.job_id == "second"
            others.finish(second, Outcome.failed())
            assert (await claim_after(others.retry, "second")).job_id == "second"

    asyncio.run(story())


def test_a_notice_before_a_claim_stands_by_is_not_lost(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want
) -> None:
    """What comes while the worker is full, or on its way, is claimed when it stands by."""

    async def story() -> None:
        async with worker(postgres_store_url) as face:
            await asyncio.to_thread(others.submit, [make_job(id="early")])
            # another operation, so that the notice has come, if it comes at all
            await face.run(lambda tx: None)
            assert await taken(stand_by(face, wanted())) == ["early"]

    asyncio.run(story())


def test_a_claim_that_stands_down_takes_nothing(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want
) -> None:
    """After that, jobs are left to others."""

    async def story() -> None:
        async with worker(postgres_store_url) as face:
            standing = stand_by(face, wanted())
            assert standing.stand_down()
            assert not standing.stand_down()
            await asyncio.to_thread(others.submit, [make_job(id="job")])
            await face.run(lambda tx: None)
            assert not standing.done.done()
            assert len(others.claim(wanted())) == 1

    asyncio.run(story())


def test_of_several_workers_one_gets_the_job(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want
) -> None:
    """All of them hear the notice; the others get nothing, and can stand by again."""

    async def story() -> None:
        async with worker(postgres_store_url) as one, worker(postgres_store_url) as two:
            standing = [stand_by(face, wanted(f"w{number}")) for number, face in enumerate((one, two))]
            await asyncio.to_thread(others.submit, [make_job(id="job")])
            assert sorted([await taken(each) for each in standing]) == [[], ["job"]]

    asyncio.run(story())


def test_a_worker_whose_connection_died_hears_again(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, wanted: Want
) -> None:
    """It finds what it may have missed once it has connected anew."""

    async def story() -> None:
        async with worker(postgres_store_url) as face:
            pid = await face.run(lambda tx: tx.connection.execute(text("SELECT pg_backend_pid()")).scalar_one())
            standing = stand_by(face, wanted())
            end = text("SELECT pg_terminate_backend(:pid, 10000)")
            others.database.run(lambda tx: tx.connection.execute(end, {"pid": pid}).all())
            await asyncio.to_thread(others.submit, [make_job(id="missed")])
            # any operation connects again
            await face.run(lambda tx: None)
            assert await taken(standing) == ["missed"]
            standing = stand_by(face, wanted())
            await asyncio.to_thread(others.submit, [make_job(id="heard")])
            assert await taken(standing) == ["heard"]

    asyncio.run(story())


def test_a_worker_that_is_not_to_listen_does_not(postgres_store_url: str, wanted: Want) -> None:
    """``notices=off`` in the address: for those behind a pooler, who would wait in vain."""

    async def story() -> None:
        store = open_store(without_notices(postgres_store_url))
        face = AsyncStore(store.database)
        await face.run(lambda tx: None)
        listening = text("SELECT count(*) FROM pg_listening_channels()")
        assert await face.run(lambda tx: tx.connection.execute(listening).scalar_one()) == 0
        assert face.stand_by(wanted()) is None
        assert not store.sends_notifications
        await face.close()
        store.close()

    asyncio.run(story())
