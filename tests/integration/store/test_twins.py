"""Twins: single-statement submit and claim (PostgreSQL) write the same rows as the general paths, and leave other
cases to them."""

import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, delete, make_url, select, text, update
from sqlalchemy.event import listen

from nsai_work.errors import FileUnusable
from nsai_work.job import Job
from nsai_work.store import Claim, ClaimRequest, Outcome, Store, Tx
from nsai_work.store.claim import general as general_claim
from nsai_work.store.claim import one_statement as claim_statement
from nsai_work.store.lanes import deactivate_empty_lanes
from nsai_work.store.schema import attempts, events, jobs, lanes, specs, turns
from nsai_work.store.submit import general as general_submit
from nsai_work.store.submit import one_statement as submit_statement
from tests.integration.store.conftest import ManualClock
from tests.strategies import names
from tests.working_store import open_working_store

pytestmark = pytest.mark.postgres

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

# keys and sequence numbers, which differ
NUMBERED = {"seq", "job_seq", "id", "lane_id"}


@pytest.fixture
def store(postgres_store_url: str, clock: ManualClock) -> Iterator[Store]:
    """An empty store on PostgreSQL."""
    opened = open_working_store(postgres_store_url, clock)
    yield opened
    opened.close()


def submit_by_statement(store: Store, submitted: list[Job]) -> Any:
    """Submit by the single statement."""
    with store.database.autocommit() as tx:
        return submit_statement.submit(tx, submitted)


def claim_by_statement(store: Store, request: ClaimRequest) -> list[Claim] | None:
    """Claim by the single statement."""
    with store.database.autocommit() as tx:
        return claim_statement.claim(tx, request)


def rows(store: Store, *tables: Table) -> list[list[dict[str, Any]]]:
    """The rows of the tables in order, without keys and sequence numbers."""

    def read(tx: Tx, table: Table) -> list[dict[str, Any]]:
        found = tx.connection.execute(select(table).order_by(*table.primary_key.columns)).mappings()
        return [{name: value for name, value in row.items() if name not in NUMBERED} for row in found]

    return [store.database.read(read, table) for table in tables]


def emptied(store: Store) -> None:
    """Delete all jobs; lanes are kept."""
    # for a few rows much faster than TRUNCATE, which replaces the file of each table and each index
    store.database.run(lambda tx: tx.connection.execute(delete(jobs)))


TEXT = names(max_size=8)
ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"]))
KEYS = st.text("ab\x00\"\\%'{", max_size=3)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**60), 2**60)
    | st.floats(allow_nan=False, allow_infinity=False)
    | ANY_TEXT,
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


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given=st.lists(PLAIN, min_size=1, max_size=3))
def test_both_submits_write_the_same_rows(store: Store, make_job: MakeJob, given: list[Any]) -> None:
    """Every column of every row is equal, whatever the job contains."""
    submitted = [make_job(**fields) for fields in given]
    stored, results = [], []
    for path in (
        lambda: store.database.run(general_submit.submit, submitted),
        lambda: submit_by_statement(store, submitted),
    ):
        emptied(store)
        results.append(path())
        stored.append(rows(store, jobs, specs, events))

    assert results[0] == results[1]
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
def test_other_submissions_are_left_to_the_general_path(
    store: Store, make_job: MakeJob, fields: dict[str, Any]
) -> None:
    """The single statement stores neither the job nor those submitted with it."""
    store.submit([make_job(id="first")])
    before = rows(store, jobs, specs, events, lanes)

    assert submit_by_statement(store, [make_job(), make_job(**fields)]) is None

    assert rows(store, jobs, specs, events, lanes) == before
    assert store.submit([make_job(), make_job(**fields)])[1].created


def test_a_simple_submission_and_claim_are_one_statement_each(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """One statement for a submission, and one for a claim, if the lane exists."""
    store.submit([make_job()])
    store.claim(claim_request())
    begun: list[object] = []
    listen(store.database.engine(), "begin", begun.append)
    sent: list[str] = []
    listen(store.database.engine(), "before_cursor_execute", lambda *arguments: sent.append(arguments[2]))

    store.submit([make_job()])
    assert len(store.claim(claim_request())) == 1

    # neither a BEGIN nor anything else went through SQLAlchemy's own execution
    assert (len(begun), sent) == (2, [])


def test_an_inactive_lane_is_activated(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """A job submitted to an inactive lane can be claimed."""
    store.submit([make_job()])
    store.claim(claim_request())
    store.database.run(deactivate_empty_lanes)
    assert rows(store, lanes)[0][0]["active"] is False

    assert submit_by_statement(store, [make_job()]) is not None

    assert rows(store, lanes)[0][0]["active"] is True
    assert len(store.claim(claim_request())) == 1


def test_a_lane_that_is_deactivated_meanwhile_is_activated(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The statement saw the lane active, waited for its lock, and found it inactive."""
    store.submit([make_job()])
    store.claim(claim_request())
    submitting = threading.Thread(target=submit_by_statement, args=(store, [make_job(id="late")]))
    with store.database.transaction() as tx:
        tx.connection.execute(select(lanes.c.id).with_for_update())
        tx.connection.execute(update(lanes).values(active=False))
        submitting.start()
        _wait_for_a_blocked_lock(store)
    submitting.join(30)

    assert [claim.job_id for claim in store.claim(claim_request())] == ["late"]


def _wait_for_a_blocked_lock(store: Store) -> None:
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    for _ in range(10_000):
        if store.database.read(lambda tx: tx.connection.execute(waiting).scalar_one()):
            return
    pytest.fail("no session waits for a lock")


def test_both_claims_write_the_same_rows(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """The job's row, the attempt and the event, for new jobs and for a requeued one."""
    stored, claimed = [], []
    for path in (
        lambda request: store.database.run(general_claim.claim, request),
        lambda request: claim_by_statement(store, request),
    ):
        emptied(store)
        late = {"deadline": "2026-01-01T00:01:00Z"}
        store.submit([make_job(id="again", constraints=late), make_job(id="new"), make_job(id="left")])
        (first,) = store.claim(claim_request())
        store.requeue(first, Outcome.released("handed \"over\" 'at once'"))
        claimed.append(path(claim_request("worker \"2\" \\ 'two'", limit=2, backends={"fake": "team-a"})))
        stored.append(rows(store, jobs, attempts, events))

    assert [claim.job_id for claim in claimed[1]] == ["again", "new"]
    plain = [
        [
            (claim.job, claim.fence, claim.attempt, claim.backend, claim.credential, claim.remaining_s)
            for claim in some
        ]
        for some in claimed
    ]
    assert plain[0] == plain[1]
    assert [claim.remaining_s for claim in claimed[1]] == [60.0, None]
    assert stored[0] == stored[1]


def test_nothing_to_claim_is_a_result(store: Store, claim_request: MakeRequest, make_job: MakeJob) -> None:
    """The general path is not needed to find that nothing is ready, or nothing that this worker may claim."""
    assert claim_by_statement(store, claim_request()) == []
    store.submit([make_job()])
    assert claim_by_statement(store, claim_request(backends={"another": "another"})) == []
    assert claim_by_statement(store, claim_request(kinds=["inference"])) == []


def test_other_claims_are_left_to_the_general_path(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: ManualClock
) -> None:
    """Several lanes, a limit, a concurrency group, a delay that is over, declined jobs: the single statement claims
    nothing."""

    def left_alone() -> bool:
        before = rows(store, jobs, attempts, events, turns)
        return (
            claim_by_statement(store, claim_request(limit=5)) is None
            and rows(store, jobs, attempts, events, turns) == before
        )

    def restart_with(*submitted: Job) -> None:
        emptied(store)
        store.submit(submitted)

    restart_with(make_job(tenant_id="a"), make_job(tenant_id="b"))
    assert left_alone()
    restart_with(make_job(constraints={"concurrency_group": "g", "max_concurrent_in_group": 1}))
    assert left_alone()

    restart_with(make_job(), make_job())
    (claim,) = store.claim(claim_request())
    store.requeue(claim, Outcome.retried("later", delay_s=30))
    clock.pass_time(31)
    assert left_alone()
    assert len(store.claim(claim_request(limit=5))) == 2

    restart_with(make_job(), make_job(id="second"))
    (first,) = store.claim(claim_request())
    store.requeue(first, Outcome.declined(FileUnusable("no file").failure()))
    request = claim_request(limit=5)
    excluding = replace(request, selection=replace(request.selection, excluded=(first.seq,)))
    before = rows(store, jobs, attempts, events, turns)
    assert claim_by_statement(store, excluding) is None
    assert rows(store, jobs, attempts, events, turns) == before
    assert [claim.job_id for claim in store.claim(excluding)] == ["second"]

    restart_with(make_job())
    store.set_tenant_quota("somebody", 1)
    assert left_alone()


def test_a_group_that_is_not_waiting_slows_no_claim(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A database that has once had a job with a concurrency group claims others by the single statement."""
    store.submit([make_job(constraints={"concurrency_group": "g", "max_concurrent_in_group": 1})])
    (claim,) = store.claim(claim_request())
    store.finish(claim, Outcome.succeeded())
    store.submit([make_job(id="plain")])

    claims = claim_by_statement(store, claim_request())

    assert claims is not None
    assert [claim.job_id for claim in claims] == ["plain"]


def test_an_existing_job_is_found_by_the_general_path(store: Store, make_job: MakeJob) -> None:
    """The single statement raises the conflict, and the submission returns the existing job."""
    job = make_job()
    store.submit([job])

    (again,) = store.submit([job])

    assert (again.created, again.job_id) == (False, job.id)
    assert len(store.list_jobs()) == 1


def test_a_dead_connection_is_replaced(
    postgres_store_url: str, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The spare connection for single statements may die at any time."""
    # the name tells its connections from those of tests that run at the same time, which must not die
    name = f"twins-{secrets.token_hex(6)}"
    url = make_url(postgres_store_url).update_query_dict({"application_name": name})
    store = open_working_store(url.render_as_string(hide_password=False))
    store.submit([make_job(), make_job()])
    other = open_working_store(postgres_store_url)
    end_all = text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = '{name}'")

    def end_connections() -> None:
        assert other.database.run(lambda tx: tx.connection.execute(end_all).all())

    end_connections()
    store.submit([make_job()])
    end_connections()

    assert len(store.claim(claim_request(limit=5))) == 3
    store.close()
    other.close()
