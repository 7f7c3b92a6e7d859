"""Shares: no priority starves, whatever else waits, and none is reserved anything that it does not use."""

import threading
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from nsai_work.job import Job, Priority
from nsai_work.store import Claim, ClaimRequest, Selection, Store
from nsai_work.store.claim import general
from nsai_work.store.claim.shares import MAX_CONCURRENT, MAX_SELECTIONS, SHARES, SLOTS, lock_cycle, prune_shares
from nsai_work.store.schema import jobs, shares
from tests.working_store import WorkingStore

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]
ClaimJobs = Callable[[WorkingStore, ClaimRequest], list[Claim]]

PROPERTY = settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def by_door(store: WorkingStore, request: ClaimRequest) -> list[Claim]:
    """A claim as a worker makes it: the single statement first on PostgreSQL."""
    return store.claim(request)


def by_general_path(store: WorkingStore, request: ClaimRequest) -> list[Claim]:
    """A claim by the general path alone."""
    return store.database.run(general.claim, request)


def submit(store: Store, make_job: MakeJob, **counts: int) -> None:
    """Submit jobs of each priority."""
    store.submit([make_job(priority=name) for name, count in counts.items() for _ in range(count)])


def counted(claims: Sequence[Claim]) -> Counter[Priority]:
    """The number of claimed jobs of each priority."""
    return Counter(claim.job.priority for claim in claims)


def start_anew(store: Store) -> None:
    """Delete all jobs; the positions are kept."""
    store.database.run(lambda tx: tx.connection.execute(delete(jobs)))


def test_the_documented_shares() -> None:
    """9 : 4 : 2 : 1 of 16, and no two slots of a less urgent priority follow each other."""
    assert {str(priority): share for priority, share in SHARES.items()} == {
        "realtime": 9, "interactive": 4, "batch": 2, "offline": 1,
    }  # fmt: skip
    assert Counter(SLOTS) == {priority.rank: share for priority, share in SHARES.items()}
    for slot, following in zip(SLOTS, SLOTS[1:] + SLOTS[:1], strict=True):
        assert slot != following or slot == Priority.REALTIME.rank


@pytest.mark.parametrize("claim", [by_door, by_general_path])
@PROPERTY
@given(
    before=st.lists(st.tuples(st.sampled_from(list(Priority)), st.integers(1, 5)), max_size=6),
    waiting=st.sets(st.sampled_from(list(Priority)), min_size=1),
    sizes=st.lists(st.integers(1, 7), min_size=48, max_size=48) | st.just([1] * 48),
    tenants=st.integers(1, 3),
)
def test_while_priorities_wait_each_gets_its_share(
    store: WorkingStore,
    make_job: MakeJob,
    claim_request: MakeRequest,
    claim: ClaimJobs,
    before: list[tuple[Priority, int]],
    waiting: set[Priority],
    sizes: list[int],
    tenants: int,
) -> None:
    """Whatever was claimed before, and in claims of any sizes: consecutive jobs, as many as the waiting priorities
    have slots, hold exactly the share of each."""
    start_anew(store)
    for priority, count in before:
        submit(store, make_job, **{priority: count})
        claim(store, claim_request(limit=max(1, count - 1)))
    start_anew(store)
    cycle = sum(SHARES[priority] for priority in waiting)
    total = 3 * cycle + max(sizes)
    store.submit(
        [
            make_job(priority=priority, tenant_id=f"t{number % tenants}")
            for priority in waiting
            for number in range(total)
        ]
    )
    batches: list[list[Claim]] = []
    for size in sizes:
        batches.append(claim(store, claim_request(limit=size)))
        assert len(batches[-1]) == size
        if sum(map(len, batches)) >= 3 * cycle:
            break

    checked = 0
    for begin in range(len(batches)):
        window: list[Claim] = []
        for batch in batches[begin:]:
            window += batch
            if len(window) % cycle == 0:
                shares = {priority: SHARES[priority] * len(window) // cycle for priority in waiting}
                assert counted(window) == shares
                checked += 1
    assert checked or max(sizes) > 1


@PROPERTY
@given(claimed=st.integers(0, 20), also=st.sampled_from([[], ["offline"]]))
def test_an_urgent_job_overtakes_a_backlog(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, claimed: int, also: list[str]
) -> None:
    """An interactive job that arrives in a backlog is among the next two jobs."""
    start_anew(store)
    submit(store, make_job, batch=30, **dict.fromkeys(also, 30))
    for _ in range(claimed):
        store.claim(claim_request())
    submit(store, make_job, interactive=1)

    following = [store.claim(claim_request())[0] for _ in range(2)]

    assert counted(following)[Priority.INTERACTIVE] == 1


def test_a_claim_of_many_jobs_is_split_by_shares(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Of 64 jobs, 36, 16, 8 and 4."""
    submit(store, make_job, offline=70, batch=70, interactive=70, realtime=70)

    assert list(counted(store.claim(claim_request(limit=64))).values()) == [36, 16, 8, 4]


def test_nothing_is_reserved_for_a_priority_without_ready_jobs(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The others share what it leaves, and a claim is as large as without it."""
    submit(store, make_job, realtime=2, batch=70, offline=70)
    claims = counted(store.claim(claim_request(limit=62)))
    assert claims == {Priority.REALTIME: 2, Priority.BATCH: 40, Priority.OFFLINE: 20}

    assert counted(store.claim(claim_request(limit=70))) == {Priority.BATCH: 30, Priority.OFFLINE: 40}


def test_a_priority_at_its_limit_is_skipped(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Jobs that may not run now take no share."""
    group = {"concurrency_group": "g", "max_concurrent_in_group": 1}
    store.submit([make_job(priority="realtime", constraints=group) for _ in range(5)])
    submit(store, make_job, batch=10, offline=10)

    claims = [store.claim(claim_request())[0] for _ in range(10)]

    assert counted(claims) == {Priority.REALTIME: 1, Priority.BATCH: 6, Priority.OFFLINE: 3}


def test_a_worker_of_some_priorities_does_not_take_the_turns_of_others(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """It shares among its own priorities; offline jobs do not starve at the worker beside it."""
    submit(store, make_job, realtime=60, interactive=60, batch=60, offline=60)
    some = claim_request("w2", priorities=[Priority.INTERACTIVE, Priority.BATCH])
    own, restricted = [], []
    for _ in range(32):
        own += store.claim(claim_request("w1"))
        restricted += store.claim(some)

    assert list(counted(own).values()) == [18, 8, 4, 2]
    assert counted(restricted[:30]) == {Priority.INTERACTIVE: 20, Priority.BATCH: 10}


@pytest.mark.postgres
class TestConcurrentClaims:
    """Claims at the same moment, on PostgreSQL."""

    @pytest.fixture
    def url(self, postgres_store_url: str) -> str:
        """PostgreSQL alone: SQLite has a single writer."""
        return postgres_store_url

    def test_threads_together_keep_the_shares(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
    ) -> None:
        """Eight threads claim at once; they deviate by at most a job for each of them."""
        threads, rounds = 8, 24
        submit(store, make_job, realtime=200, interactive=200, batch=200, offline=200)
        found: list[Claim] = []
        start = threading.Barrier(threads)

        def work(number: int) -> None:
            start.wait()
            for _ in range(rounds):
                found.extend(by_general_path(store, claim_request(f"w{number}")))

        running = [threading.Thread(target=work, args=(number,)) for number in range(threads)]
        for thread in running:
            thread.start()
        for thread in running:
            thread.join(60)

        counts, total = counted(found), threads * rounds
        assert sum(counts.values()) == total
        for priority, share in SHARES.items():
            assert abs(counts[priority] - total * share / 16) <= threads

    @pytest.mark.parametrize("locked", [1, MAX_CONCURRENT])
    def test_a_claim_does_not_wait_for_another(
        self, store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, locked: int
    ) -> None:
        """While other claims hold positions, even all of them, a claim is served at once."""
        submit(store, make_job, realtime=5, offline=5)
        store.claim(claim_request())
        claims: list[Claim] = []
        with store.database.transaction() as tx:
            held = select(shares).order_by(shares.c.number).limit(locked).with_for_update()
            assert len(tx.connection.execute(held).all()) == locked
            claiming = threading.Thread(
                target=lambda: claims.extend(by_general_path(store, claim_request(limit=2))), daemon=True
            )
            claiming.start()
            claiming.join(20)
            assert len(claims) == 2

        # the positions that were held are unchanged
        with store.database.transaction() as tx:
            slots = tx.connection.execute(select(shares.c.slot).order_by(shares.c.number)).scalars().all()
        assert slots[0] == 1
        assert (slots[1] == 1) is (locked == MAX_CONCURRENT)


def test_positions_of_selections_do_not_pile_up(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Workers come and go with other backends: a sweep forgets what is too much, and claims go on."""
    for number in range(MAX_SELECTIONS):
        store.database.run(lock_cycle, Selection(backends=((f"b{number}", "a"),)))
    assert store.database.run(prune_shares) == 0
    store.database.run(lock_cycle, Selection(backends=(("one more", "a"),)))
    store.release_due()

    assert store.database.read(lambda tx: tx.connection.execute(select(shares)).all()) == []
    submit(store, make_job, realtime=1, offline=1)
    assert len(by_door(store, claim_request(limit=2))) == 2
