"""A journal row that was damaged is an error that names it, and concerns no other job."""

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Table, text

from crucible.errors import CrucibleError
from crucible.training import Intent, IntentKind, RunRef
from nsai_work.cli.output.error_report import advice_for
from nsai_work.errors import UnreadableJournal
from nsai_work.job import Job
from nsai_work.journal import CheckpointRecord, EvaluationRecord, JournalSnapshot, RemoteRun, ResumeMode, StepRecord
from nsai_work.store import AsyncStore, Claim, ClaimRequest, Outcome, StoreJournal
from nsai_work.store.journal.runs import events_of
from nsai_work.store.schema import checkpoints, evaluations, intents, runs, steps
from tests.integration.store.conftest import ManualClock, empty
from tests.integration.store.test_unreadable_rows import anything
from tests.working_store import WorkingStore

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

DAMAGE: dict[str, tuple[str, str, object, str]] = {
    "a run of an unknown mode": ("nsai_runs", "resume", "odd", "resume: "),
    "a run's reference that is no JSON": ("nsai_runs", "ref", "{", "ref: "),
    "a run's reference of another version": (
        "nsai_runs",
        "ref",
        '{"backend": "fake", "colour": 1}',
        "ref.run_id: ",
    ),
    "a step before the first": ("nsai_steps", "epoch", -1, "epoch: "),
    "a step's metrics that are a list": ("nsai_steps", "metrics", "[]", "metrics: "),
    "an evaluation without metrics": ("nsai_evaluations", "metrics", "[]", "metrics: "),
    "an intent of an unknown kind": ("nsai_intents", "intent", '{"kind": "odd"}', "kind: "),
    "an intent that is no JSON": ("nsai_intents", "intent", "[", "(got '(not JSON)')"),
    "a checkpoint in an unknown state": ("nsai_checkpoints", "status", "odd", "status: "),
    "a checkpoint of a negative size": ("nsai_checkpoints", "size_bytes", -1, "size_bytes: "),
}


def load(store: WorkingStore, claim: Claim, *, write: bool = False) -> JournalSnapshot:
    """Load the journal of a claim as its next owner, after writing a row of each table with ``write``."""

    async def use() -> JournalSnapshot:
        async_store = AsyncStore(store.database)
        journal = StoreJournal(async_store, claim)
        try:
            if write:
                ref = RunRef(backend="fake", run_id="r")
                await journal.begin_run(RemoteRun(generation=1, ref=ref, from_step=0, resume=ResumeMode.FRESH))
                await journal.intend(1, [intent(1, IntentKind.STEP)])
                step = StepRecord(step=1, epoch=0, loss=0.5, tokens=8, learning_rate=1e-4, generation=1)
                await journal.complete_step(step, 1)
                await journal.intend(1, [intent(2, IntentKind.FORWARD)])
                metrics = {"eval.loss": 0.5}
                await journal.complete_evaluation(
                    EvaluationRecord(step=1, generation=1, metrics=metrics, rows=1, tokens=8), 2
                )
                saved = CheckpointRecord(name="c", step=1, generation=1)
                await journal.plan_checkpoint(saved, intent(3, IntentKind.SAVE_STATE))
            return await journal.load()
        finally:
            await async_store.close()

    return asyncio.run(use())


def intent(seq_id: int, kind: IntentKind) -> Intent:
    """An intent of one request."""
    return Intent(kind=kind, run_id="r", first_seq_id=seq_id, last_seq_id=seq_id, step=1, digest="d", name="c")


def damage(store: WorkingStore, claim: Claim, table: str, column: str, value: object, rows: str = "") -> None:
    """Write a value as it is."""
    with store.database.transaction() as tx:
        statement = text(f"UPDATE {table} SET {column} = :value WHERE job_seq = :seq {rows}")
        tx.connection.execute(statement, {"value": value, "seq": claim.seq})


@pytest.mark.parametrize("metrics", ["{", "[]", "7"])
def test_the_progress_of_a_step_without_metrics_is_shown(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest, metrics: str
) -> None:
    """It needs the reward alone of them. An event without data counts as one without any field."""
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    load(store, claim, write=True)
    damage(store, claim, "nsai_steps", "metrics", metrics)
    damage(store, claim, "nsai_events", "data", metrics)

    progress = store.progress(claim.job_id)

    assert progress is not None
    assert (progress.step, progress.reward) == (1, None)
    assert store.database.run(events_of, claim, "run.began") == [{}]


@pytest.mark.parametrize(("table", "column", "value", "problem"), DAMAGE.values(), ids=DAMAGE)
def test_the_error_names_table_row_and_field(
    store: WorkingStore,
    make_job: MakeJob,
    claim_request: MakeRequest,
    table: str,
    column: str,
    value: object,
    problem: str,
) -> None:
    """And what to do; the journals of other jobs are read as before."""
    store.submit([make_job(), make_job()])
    damaged, other = store.claim(claim_request(limit=2))
    load(store, damaged, write=True)
    before = load(store, other, write=True)
    damage(store, damaged, table, column, value)

    with pytest.raises(UnreadableJournal) as caught:
        load(store, damaged)
    error = caught.value
    assert (error.code, error.retryable) == ("unreadable_journal", False)
    assert error.message.startswith(f"{table}, row of job_seq {damaged.seq}, ")
    assert problem in error.message
    assert error.details["table"] == table
    assert advice_for(error)
    assert load(store, other) == before
    store.finish(damaged, Outcome.failed(error.failure()))
    assert {job.id for job in store.list_jobs()} == {damaged.job_id, other.job_id}
    shown = store.get(damaged.job_id).error
    assert shown is not None
    assert shown.message == error.message


# SQLite takes any value in any column
COLUMNS = [
    (table, column.name)
    for table in (runs, steps, evaluations, intents, checkpoints)
    for column in table.columns
    if column.name != "job_seq"
]


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.sampled_from(COLUMNS), value=anything)
def test_any_value_in_any_column_is_read_or_named(
    sqlite_store: WorkingStore,
    clock: ManualClock,
    make_job: MakeJob,
    claim_request: MakeRequest,
    place: tuple[Table, str],
    value: object,
) -> None:
    """Nothing but an error of the family; deletions of old checkpoints go on."""
    table, column = place
    if value is None and not table.c[column].nullable:
        return
    store = sqlite_store
    empty(store)
    store.submit([make_job(), make_job()])
    damaged, other = store.claim(claim_request(limit=2))
    for claim in (damaged, other):
        load(store, claim, write=True)
    # two rows with one key would be refused by the database
    first = f"AND rowid = (SELECT min(rowid) FROM {table.name} WHERE job_seq = :seq)"
    damage(store, damaged, table.name, column, value, first)
    try:
        load(store, damaged)
    except CrucibleError as error:
        json.dumps(error.failure().model_dump(mode="json"), allow_nan=False)
    load(store, other)
    for claim in (damaged, other):
        store.finish(claim, Outcome.failed())
    clock.pass_time(60)
    found = store.begin_checkpoint_deletion(clock.now(), limit=9)
    assert other.job_id in {checkpoint.job_id for checkpoint in found}


def test_a_damaged_row_fails_its_job_and_no_other(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """What the commands read of it is refused with the row's name; lists are complete."""
    store.submit([make_job(), make_job()])
    damaged, other = store.claim(claim_request(limit=2))
    for claim in (damaged, other):
        load(store, claim, write=True)
    damage(store, damaged, "nsai_checkpoints", "status", "odd")

    readers: list[Callable[[str], Any]] = [store.checkpoints]
    for read in readers:
        with pytest.raises(UnreadableJournal, match="nsai_checkpoints, row of"):
            read(damaged.job_id)
        assert read(other.job_id)
    assert len(store.steps(damaged.job_id)) == len(store.steps(other.job_id)) == 1
