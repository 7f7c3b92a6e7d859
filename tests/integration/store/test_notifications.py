"""Notifications: a standing claim runs when a job becomes ready, whichever process made it so."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text

from nsai_work.job import Job
from nsai_work.store import AsyncStore, Claim, ClaimRequest, Outcome, StandingClaim, migrate_store, open_store
from tests.rig import new_database, without_notifications
from tests.working_store import WorkingStore, open_working_store

pytestmark = pytest.mark.postgres

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def postgres_template(postgres_url: str) -> Iterator[str]:
    """A database of its own: PostgreSQL sends a notification to all listeners of a database, in any schema."""
    with new_database(postgres_url) as url:
        migrate_store(url)
        yield url


@asynccontextmanager
async def worker(url: str) -> AsyncIterator[AsyncStore]:
    """The AsyncStore of a worker, connected, without a pending notification."""
    store = open_store(url)
    async_store = AsyncStore(store.database)
    # it listens after its first operation, and then counts as notified, since a notification may have been missed
    await async_store.run(lambda tx: None)
    first = async_store.stand_by(ClaimRequest("w", 1, 10.0))
    assert first is not None
    await taken(first)
    yield async_store
    await async_store.close()
    store.close()


async def taken(standing: StandingClaim) -> list[str]:
    """The ids of the jobs that a standing claim has claimed."""
    async with asyncio.timeout(PATIENCE_S):
        return [claim.job_id for claim in await standing.done]


def stand_by(async_store: AsyncStore, request: ClaimRequest) -> StandingClaim:
    """Start a standing claim."""
    standing = async_store.stand_by(request)
    assert standing is not None
    return standing


@pytest.fixture
def others(postgres_store_url: str) -> Iterator[WorkingStore]:
    """The store in another process."""
    store = open_working_store(postgres_store_url)
    yield store
    store.close()


@pytest.mark.parametrize("fields", [{}, {"tags": ["t"]}, {"tenant_id": "new"}], ids=str)
def test_a_job_submitted_elsewhere_is_claimed_at_once(
    postgres_store_url: str,
    others: WorkingStore,
    make_job: MakeJob,
    claim_request: MakeRequest,
    fields: dict[str, object],
) -> None:
    """On either path of submit, without polling."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as async_store:
            for number in range(3):
                standing = stand_by(async_store, claim_request())
                await asyncio.to_thread(others.submit, [make_job(id=f"job {number}", **fields)])
                assert await taken(standing) == [f"job {number}"]
                assert standing.began_at > 0

    asyncio.run(scenario())


def test_every_transition_to_ready_sends_a_notification(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A requeued job, a dependent whose dependency has ended, and a retried job."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as async_store:

            async def claim_after(act: Callable[..., object], *args: object) -> Claim:
                standing = stand_by(async_store, claim_request())
                await asyncio.to_thread(act, *args)
                while not await taken(standing):
                    # of an earlier notification
                    standing = stand_by(async_store, claim_request())
                return (await standing.done)[0]

            others.submit([make_job(id="first"), make_job(id="second", constraints={"depends_on": ["first"]})])
            (claim,) = others.claim(claim_request())
            first = await claim_after(others.requeue, claim, Outcome.retried("handed over"))
            assert first.job_id == "first"
            second = await claim_after(others.finish, first, Outcome.succeeded())
            assert second.job_id == "second"
            others.finish(second, Outcome.failed())
            assert (await claim_after(others.retry, "second")).job_id == "second"

    asyncio.run(scenario())


def test_a_notification_before_a_claim_stands_by_is_not_lost(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A job submitted while the worker is full, or is claiming, is claimed by the next standing claim."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as async_store:
            await asyncio.to_thread(others.submit, [make_job(id="early")])
            # after another operation the notification has arrived, if it arrives at all
            await async_store.run(lambda tx: None)
            assert await taken(stand_by(async_store, claim_request())) == ["early"]

    asyncio.run(scenario())


def test_a_claim_that_stands_down_claims_nothing(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Later jobs are left to other workers."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as async_store:
            standing = stand_by(async_store, claim_request())
            assert standing.stand_down()
            assert not standing.stand_down()
            await asyncio.to_thread(others.submit, [make_job(id="job")])
            await async_store.run(lambda tx: None)
            assert not standing.done.done()
            assert len(others.claim(claim_request())) == 1

    asyncio.run(scenario())


def test_of_several_workers_one_gets_the_job(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """All of them are notified; the others get nothing, and can stand by again."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as first, worker(postgres_store_url) as second:
            standing = [
                stand_by(async_store, claim_request(f"w{number}"))
                for number, async_store in enumerate((first, second))
            ]
            await asyncio.to_thread(others.submit, [make_job(id="job")])
            assert sorted([await taken(claim) for claim in standing]) == [[], ["job"]]

    asyncio.run(scenario())


def test_a_worker_whose_connection_died_is_notified_again(
    postgres_store_url: str, others: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """After reconnecting it claims what it may have missed."""

    async def scenario() -> None:
        async with worker(postgres_store_url) as async_store:
            pid = await async_store.run(
                lambda tx: tx.connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
            )
            standing = stand_by(async_store, claim_request())
            end = text("SELECT pg_terminate_backend(:pid, 10000)")
            others.database.run(lambda tx: tx.connection.execute(end, {"pid": pid}).all())
            await asyncio.to_thread(others.submit, [make_job(id="missed")])
            # any operation reconnects
            await async_store.run(lambda tx: None)
            assert await taken(standing) == ["missed"]
            standing = stand_by(async_store, claim_request())
            await asyncio.to_thread(others.submit, [make_job(id="heard")])
            assert await taken(standing) == ["heard"]

    asyncio.run(scenario())


def test_notifications_can_be_turned_off(postgres_store_url: str, claim_request: MakeRequest) -> None:
    """``notices=off`` in the address, for workers behind a pooler that does not deliver notifications."""

    async def scenario() -> None:
        store = open_store(without_notifications(postgres_store_url))
        async_store = AsyncStore(store.database)
        await async_store.run(lambda tx: None)
        listening = text("SELECT count(*) FROM pg_listening_channels()")
        assert await async_store.run(lambda tx: tx.connection.execute(listening).scalar_one()) == 0
        assert async_store.stand_by(claim_request()) is None
        assert not store.sends_notifications
        await async_store.close()
        store.close()

    asyncio.run(scenario())
