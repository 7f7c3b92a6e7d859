"""The short cuts on PostgreSQL store what the long ways store, and leave alone what is not for them."""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, select, text, update
from sqlalchemy.event import listen

from nsai_work.job import Job
from nsai_work.store import Claim, ClaimRequest, Outcome, Store, Tx
from nsai_work.store.claim import general as claiming
from nsai_work.store.claim import one_statement as taking
from nsai_work.store.lanes import put_to_sleep
from nsai_work.store.schema import attempts, events, jobs, lanes, specs, turns
from nsai_work.store.submit import general as submitting
from nsai_work.store.submit import one_statement as placing
from tests.integration.store.conftest import ManualClock
from tests.working_store import open_working_store

pytestmark = pytest.mark.postgres

MakeJob = Callable[..., Job]
Want = Callable[..., ClaimRequest]

# what numbers the rows, and so differs with each
NUMBERED = {"seq", "job_seq", "id", "lane_id"}


@pytest.fixture
def store(postgres_store_url: str, clock: ManualClock) -> Iterator[Store]:
    """An empty store on PostgreSQL."""
    opened = open_working_store(postgres_store_url, clock)
    yield opened
    opened.close()


def place(store: Store, submitted: list[Job]) -> Any:
    """Submit the short way."""
    with store.database.single() as tx:
        return placing.place(tx, submitted)


def take(store: Store, wanted: ClaimRequest) -> list[Claim] | None:
    """Claim the short way."""
    with store.database.single() as tx:
        return taking.take(tx, wanted)


def rows(store: Store, *tables: Table) -> list[list[dict[str, Any]]]:
    """What the tables hold, in order, without what numbers it."""

    def read(tx: Tx, table: Table) -> list[dict[str, Any]]:
        found = tx.connection.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        return [{name: value for name, value in row.items() if name not in NUMBERED} for row in found]

    return [store.database.read(read, table) for table in tables]


def emptied(store: Store) -> None:
    """Remove all jobs; lanes stay."""
    store.database.run(lambda tx: tx.connection.execute(text("TRUNCATE nsai_jobs CASCADE")))


TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=8)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text("ab\x00\"\\%'{", max_size=3)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats() | ANY_TEXT,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(KEYS, inner, max_size=2),
    max_leaves=4,
)
PLAIN = st.fixed_dictionaries(
    {"metadata": st.dictionaries(TEXT, VALUES, max_size=2)},
    optional={
        "name": TEXT,
        "tenant_id": st.sampled_from(["a", "ü\\\"%'"]),
        "namespace": TEXT,
        "priority": st.sampled_from(["realtime", "offline"]),
        "parent_id": TEXT,
        "payload": st.builds(lambda value: {"command": "noop", "arguments": {"value": value}}, VALUES),
        "constraints": st.sampled_from([{"concurrency_group": "g", "max_concurrent_in_group": 2}, {}]),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=st.lists(PLAIN, min_size=1, max_size=3))
def test_a_submission_is_stored_alike_either_way(store: Store, make_job: MakeJob, given: list[Any]) -> None:
    """Every column of every row, whatever the job holds."""
    submitted = [make_job(**fields) for fields in given]
    stored, answers = [], []
    for way in (lambda: store.database.run(submitting.submit, submitted), lambda: place(store, submitted)):
        emptied(store)
        answers.append(way())
        stored.append(rows(store, jobs, specs, events))

    assert answers[0] == answers[1]
    assert repr(stored[0]) == repr(stored[1])
    # numbered in their order
    assert [job.id for job in reversed(store.list_jobs())] == [job.id for job in submitted]


@pytest.mark.parametrize(
    "fields",
    [
        {"tags": ["t"]},
        {"idempotency_key": "k"},
        {"constraints": {"depends_on": ["first"]}},
        {"constraints": {"not_before": "2026-01-02T00:00:00Z"}},
        {"tenant_id": "whose lane is not there"},
    ],
    ids=str,
)
def test_what_needs_more_is_left_to_the_long_way(store: Store, make_job: MakeJob, fields: dict[str, Any]) -> None:
    """Nothing of it is stored the short way, and nothing that comes with it."""
    store.submit([make_job(id="first")])
    before = rows(store, jobs, specs, events, lanes)

    assert place(store, [make_job(), make_job(**fields)]) is None

    assert rows(store, jobs, specs, events, lanes) == before
    assert store.submit([make_job(), make_job(**fields)])[1].created


def test_a_user_s_submission_goes_the_short_way(store: Store, make_job: MakeJob, wanted: Want) -> None:
    """One statement for a submission, and one for a claim, on a lane that is known."""
    store.submit([make_job()])
    store.claim(wanted())
    begun: list[object] = []
    listen(store.database.engine(), "begin", begun.append)
    sent: list[str] = []
    listen(store.database.engine(), "before_cursor_execute", lambda *given: sent.append(given[2]))

    store.submit([make_job()])
    assert len(store.claim(wanted())) == 1

    # neither a BEGIN nor anything else went through SQLAlchemy's own execution
    assert (len(begun), sent) == (2, [])


def test_a_sleeping_lane_is_woken(store: Store, make_job: MakeJob, wanted: Want) -> None:
    """A job that is placed in a lane that no claim looks at is found all the same."""
    store.submit([make_job()])
    store.claim(wanted())
    store.database.run(put_to_sleep)
    assert rows(store, lanes)[0][0]["active"] is False

    assert place(store, [make_job()]) is not None

    assert rows(store, lanes)[0][0]["active"] is True
    assert len(store.claim(wanted())) == 1


def test_a_lane_that_falls_asleep_meanwhile_is_woken(store: Store, make_job: MakeJob, wanted: Want) -> None:
    """The statement saw the lane awake, waited for its lock, and found it asleep."""
    store.submit([make_job()])
    store.claim(wanted())
    placed = threading.Thread(target=place, args=(store, [make_job(id="late")]))
    with store.database.transaction() as tx:
        tx.connection.execute(select(lanes.c.id).with_for_update())
        tx.connection.execute(update(lanes).values(active=False))
        placed.start()
        _until_somebody_waits_for_a_lock(store)
    placed.join(30)

    assert [claim.job_id for claim in store.claim(wanted())] == ["late"]


def _until_somebody_waits_for_a_lock(store: Store) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(10_000):
        if store.database.read(lambda tx: tx.connection.execute(waiting).scalar_one()):
            return
    pytest.fail("nobody waits for a lock")


def test_a_claim_is_stored_alike_either_way(store: Store, make_job: MakeJob, wanted: Want) -> None:
    """The job's row, the attempt and the event, for jobs that are new and for one that was given back."""
    stored, claimed = [], []
    for way in (lambda want: store.database.run(claiming.claim, want), lambda want: take(store, want)):
        emptied(store)
        store.submit([make_job(id="again"), make_job(id="new"), make_job(id="left")])
        (first,) = store.claim(wanted())
        store.requeue(first, Outcome.released("handed \"over\" 'at once'"))
        claimed.append(way(wanted("worker \"2\" \\ 'two'", limit=2, backends={"fake": "team-a"})))
        stored.append(rows(store, jobs, attempts, events))

    assert [claim.job_id for claim in claimed[1]] == ["again", "new"]
    plain = [
        [(claim.job, claim.fence, claim.attempt, claim.backend, claim.credential) for claim in some]
        for some in claimed
    ]
    assert plain[0] == plain[1]
    assert stored[0] == stored[1]


def test_nothing_to_claim_is_an_answer(store: Store, wanted: Want, make_job: MakeJob) -> None:
    """No second look is needed to know that there is nothing, or nothing that this worker may take."""
    assert take(store, wanted()) == []
    store.submit([make_job()])
    assert take(store, wanted(backends={"another": "another"})) == []
    assert take(store, wanted(kinds=["inference"])) == []


def test_a_claim_with_more_to_decide_is_left_to_the_long_way(
    store: Store, make_job: MakeJob, wanted: Want, clock: ManualClock
) -> None:
    """Several lanes, a limit, a concurrency group, a delay that is over: nothing is taken the short way."""

    def left_alone() -> bool:
        before = rows(store, jobs, attempts, events, turns)
        return take(store, wanted(limit=5)) is None and rows(store, jobs, attempts, events, turns) == before

    def begin_anew(*submitted: Job) -> None:
        emptied(store)
        store.submit(submitted)

    begin_anew(make_job(tenant_id="a"), make_job(tenant_id="b"))
    assert left_alone()
    begin_anew(make_job(constraints={"concurrency_group": "g", "max_concurrent_in_group": 1}))
    assert left_alone()

    begin_anew(make_job(), make_job())
    (claim,) = store.claim(wanted())
    store.requeue(claim, Outcome.retried("later", delay_s=30))
    clock.pass_time(31)
    assert left_alone()
    assert len(store.claim(wanted(limit=5))) == 2

    begin_anew(make_job())
    store.set_tenant_quota("somebody", 1)
    assert left_alone()


def test_a_job_that_is_there_is_found_the_long_way(store: Store, make_job: MakeJob) -> None:
    """The short way meets the conflict, and the submission is answered as ever."""
    job = make_job()
    store.submit([job])

    (again,) = store.submit([job])

    assert (again.created, again.job_id) == (False, job.id)
    assert len(store.list_jobs()) == 1


def test_a_dead_connection_is_replaced(
    store: Store, postgres_store_url: str, make_job: MakeJob, wanted: Want
) -> None:
    """The connection that is kept for short cuts may die at any time."""
    store.submit([make_job(), make_job()])
    other = open_working_store(postgres_store_url)
    end_all = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'nsai-work'"
    )

    other.database.run(lambda tx: tx.connection.execute(end_all).all())
    store.submit([make_job()])
    other.database.run(lambda tx: tx.connection.execute(end_all).all())

    assert len(store.claim(wanted(limit=5))) == 3
    other.close()
