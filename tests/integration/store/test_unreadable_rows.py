"""A row that cannot be read, written by another version or by hand, never hides or stops another."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from crucible.errors import CrucibleError
from nsai_work.job import Constraints, Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import ClaimRequest, Outcome
from nsai_work.store.damaged import DamagedJob
from nsai_work.store.engine.columns import Json, UtcTime
from nsai_work.store.maintenance.workers import register_worker
from nsai_work.store.schema import jobs, specs
from nsai_work.store.worker_id import WorkerId
from tests.integration.store.conftest import ManualClock, empty
from tests.working_store import WorkingStore

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

SPECS: dict[str, str] = {
    "no JSON": "{",
    "a list": "[]",
    "null": "null",
    "nothing": "{}",
    "deep": "[" * 10_000 + "]" * 10_000,
    "a huge number": '{"payload": ' + "9" * 5000 + "}",
}
FIELDS: dict[str, Any] = {
    "unknown kind": {"kind": "evaluation"},
    "unknown field": {"colour": "red"},
    "unknown field of the payload": {"payload": {"command": "noop", "loop": 3}},
    "NaN in the payload": {"payload": {"command": "noop", "arguments": {"x": [float("nan")]}}},
    "control character in the name": {"name": "a\x1b[2Jb"},
    "lone surrogate": {"metadata": {"x": "\ud800"}},
    "unknown priority": {"priority": "urgent"},
    "a year after 9999": {"constraints": {"deadline": "9999-12-31T23:59:59-01:00"}},
    "65 bits": {"metadata": {"x": 2**70}},
    "deep payload": {"payload": {"command": "noop", "arguments": {"x": json.loads("[" * 300 + "]" * 300)}}},
}


def set_column(store: WorkingStore, job_id: str, column: str, value: object, table: str = "nsai_jobs") -> None:
    """Write a value as it is."""
    where = "seq" if table == "nsai_jobs" else "job_seq"
    statement = f"UPDATE {table} SET {column} = :value WHERE {where} = (SELECT seq FROM nsai_jobs WHERE id = :id)"
    with store.database.transaction() as tx:
        tx.connection.execute(text(statement), {"value": value, "id": job_id})


def set_spec(store: WorkingStore, job: Job, **fields: Any) -> None:
    """Change fields of a stored spec, unchecked."""
    set_column(store, job.id, "spec", json.dumps({**job.model_dump(mode="json"), **fields}), table="nsai_job_specs")


def use(store: WorkingStore, damaged: Job, others: list[Job], clock: ManualClock, request: ClaimRequest) -> None:
    """List, show, sweep, claim, finish and cancel, with a damaged job before the others."""
    listed = {job.id: job for job in store.list_jobs()}
    assert listed.keys() >= {job.id for job in others}
    for job in listed.values():
        json.dumps(job.model_dump(mode="json"), allow_nan=False)
    seen = store.get(damaged.id) if damaged.id in listed else None
    if isinstance(seen, DamagedJob):
        assert seen.error is not None
        assert seen.error.code == "unreadable_job"
        assert damaged.id in seen.error.message
    store.events(damaged.id)
    clock.pass_time(60)
    store.release_due()
    store.overdue_wake_ups()
    claims = [*store.claim(request), *store.claim(request), *store.claim(request)]
    assert {claim.job_id for claim in claims} >= {job.id for job in others}
    store.leases()
    for claim in claims:
        if isinstance(claim.job, DamagedJob):
            with pytest.raises(CrucibleError):
                _ = claim.job.parsed_payload
        else:
            store.finish(claim, Outcome.succeeded({}))
    store.reclaim(store.leases())
    for job in others:
        assert store.get(job.id).status is JobStatus.SUCCEEDED


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_spec_that_is_no_job_is_named_and_stops_no_other(
    spec: str, store: WorkingStore, clock: ManualClock, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The job is listed, with an error that names it; a claim of it fails alone."""
    damaged, other = make_job(), make_job()
    store.submit([damaged, other])
    set_column(store, damaged.id, "spec", spec, table="nsai_job_specs")

    assert isinstance(store.get(damaged.id), DamagedJob)
    use(store, damaged, [other], clock, claim_request(limit=2))
    store.request_cancel(damaged.id)


@pytest.mark.parametrize("fields", FIELDS.values(), ids=FIELDS)
def test_a_field_that_this_version_refuses_is_named(
    fields: dict[str, Any], store: WorkingStore, clock: ManualClock, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The other fields are shown, the kind as it is stored."""
    damaged, other = make_job(owner="me"), make_job()
    store.submit([damaged, other])
    set_spec(store, damaged, **fields)

    found = store.get(damaged.id)
    if "NaN" not in json.dumps(fields):  # is read as text, and the job with it
        assert isinstance(found, DamagedJob)
        assert found.error is not None
        assert next(iter(fields)) in found.error.details["fields"]
        assert (found.owner, found.status) == ("me", JobStatus.QUEUED)
        assert str(found.kind) == fields.get("kind", "tool_call")
    use(store, damaged, [other], clock, claim_request(limit=2))
    store.request_cancel(damaged.id)


@pytest.mark.parametrize("spec", ["{}", '{"id": "other"}', '{"id": 3, "kind": "composite", "payload": {}}'])
def test_a_job_has_the_id_by_which_it_is_found(spec: str, store: WorkingStore, make_job: MakeJob) -> None:
    """Whatever its spec says; it would be listed by an id that no command finds."""
    job = make_job()
    store.submit([job])
    set_column(store, job.id, "spec", spec, table="nsai_job_specs")

    assert [store.get(job.id).id, store.list_jobs()[0].id] == [job.id, job.id]


SHARED_ROWS = {
    "a group without a size": "UPDATE nsai_lanes SET group_max = NULL WHERE tenant_id = 'a'",
    "a group that nobody made": "UPDATE nsai_lanes SET group_key = 'odd' WHERE tenant_id = 'a'",
    "a limit of a group": "UPDATE nsai_limits SET max_running = 3 WHERE scope = 'group'",
    "no limits at all": "DELETE FROM nsai_limits",
    "a worker that is for nothing": "UPDATE nsai_workers SET backends = '3', declined = '[]', priorities = '[{}]'",
    "a worker that is never silent": "UPDATE nsai_workers SET seen_every_ms = 9223372036854775807",
}
SQLITE_ROWS = {
    "a size that is text": "UPDATE nsai_lanes SET group_max = 'odd' WHERE tenant_id = 'a'",
    "a limit that is text": "UPDATE nsai_limits SET max_running = 'odd' WHERE key = 'a'",
    "a model that is bytes": "UPDATE nsai_lanes SET model = x'ff' WHERE tenant_id = 'a'",
    "a worker of no time": "UPDATE nsai_workers SET started_at = 'odd', declined = x'ff', pid = 'odd'",
}
"""SQLite takes any value in any column."""


def damage_shared_row(
    statement: str, store: WorkingStore, clock: ManualClock, make_job: MakeJob, request: ClaimRequest
) -> None:
    """Jobs of others are claimed, and the queue and the workers are shown."""
    group = Constraints(concurrency_group="g", max_concurrent_in_group=2)
    damaged, other = make_job(tenant_id="a", constraints=group), make_job(tenant_id="b")
    store.submit([damaged, other])
    store.set_tenant_quota("a", 5)
    store.database.run(register_worker, WorkerId.of_this_process(), version="1", backends={"fake": "fake"})
    with store.database.transaction() as tx:
        tx.connection.execute(text(statement))

    store.queue()
    assert [type(worker.worker.pid) for worker in store.worker_uses()] == [int]
    use(store, damaged, [other], clock, request)


@pytest.mark.parametrize("statement", SHARED_ROWS.values(), ids=SHARED_ROWS)
def test_a_damaged_lane_limit_or_worker_stops_no_other(
    statement: str, store: WorkingStore, clock: ManualClock, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Values that both databases hold, and rows that somebody deleted."""
    damage_shared_row(statement, store, clock, make_job, claim_request(limit=2))


@pytest.mark.parametrize("statement", SQLITE_ROWS.values(), ids=SQLITE_ROWS)
def test_another_type_in_a_lane_limit_or_worker_stops_no_other(
    statement: str, sqlite_store: WorkingStore, clock: ManualClock, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """As only SQLite takes it."""
    damage_shared_row(statement, sqlite_store, clock, make_job, claim_request(limit=2))


@pytest.mark.parametrize("column", ["result", "error"])
@pytest.mark.parametrize("value", ['{"x": NaN}', '{"x": [Infinity]}', "{", '"text"', '{"category": "odd"}'])
def test_a_result_that_is_not_json_hides_no_job(
    column: str, value: str, store: WorkingStore, make_job: MakeJob
) -> None:
    """NaN is shown as text; anything else is named."""
    damaged, other = make_job(), make_job()
    store.submit([damaged, other])
    set_column(store, damaged.id, column, value)

    listed = store.list_jobs()
    assert [job.id for job in listed] == [other.id, damaged.id]
    json.dumps([job.model_dump(mode="json") for job in listed], allow_nan=False)


def test_an_event_that_is_not_json_is_shown(store: WorkingStore, make_job: MakeJob) -> None:
    """As text that says so."""
    job = make_job()
    store.submit([job])
    set_column(store, job.id, "data", "{", table="nsai_events")

    assert [event.data for event in store.events(job.id)] == [{"unreadable": "(not JSON)"}]


@pytest.mark.parametrize("microseconds", [10**18, -(10**18), 253402304399000000])
def test_a_deadline_after_the_calendar_stops_nobody(
    microseconds: int, store: WorkingStore, clock: ManualClock, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """As an older version accepted it."""
    damaged, other = make_job(), make_job()
    store.submit([damaged, other])
    for column in ("deadline", "created_at", "started_at"):
        set_column(store, damaged.id, column, microseconds)

    use(store, damaged, [other], clock, claim_request(limit=2))


# SQLite takes any value in any column

KEYS = {"seq", "id", "lane_id"}
"""Without these a row is in no relation to the others."""
COLUMNS = [column.name for column in jobs.columns if column.name not in KEYS]
anything = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False)
    | st.sampled_from(["", "odd", "\x1b", "{", "[]", "{}", '{"x": NaN}', "queued", "running", "succeeded"])
    | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=4)
    | st.binary(max_size=3)
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(column=st.sampled_from(COLUMNS), value=anything)
def test_any_value_in_any_column_stops_no_other(
    sqlite_store: WorkingStore,
    clock: ManualClock,
    make_job: MakeJob,
    claim_request: MakeRequest,
    column: str,
    value: object,
) -> None:
    """Values that violate NOT NULL are refused by the database."""
    if value is None and not jobs.c[column].nullable:
        return
    empty(sqlite_store)
    damaged, other = make_job(), make_job()
    sqlite_store.submit([damaged, other])
    set_column(sqlite_store, damaged.id, column, value)
    use(sqlite_store, damaged, [other], clock, claim_request(limit=2))
    sqlite_store.request_cancel(damaged.id)


def test_the_columns_of_times_and_json_are_of_these_types() -> None:
    """A new column of another type would not be read as carefully."""
    assert isinstance(specs.c.spec.type, Json)
    assert {column.name for column in jobs.columns if column.name.endswith("_at") or column.name == "deadline"} == {
        column.name
        for column in jobs.columns
        if isinstance(column.type, UtcTime) and column.name != "delayed_since"
    }
