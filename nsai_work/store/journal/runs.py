"""Remote runs in the journal, and the snapshot of a whole journal."""

from typing import Any

from pydantic import JsonValue
from sqlalchemy import Row, Select, select, update

from nsai_work.journal import JournalSnapshot, RemoteRun, ResumeMode
from nsai_work.store.engine.bulk_write import insert_new
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.checkpoints import job_checkpoints
from nsai_work.store.journal.evaluations import (
    job_evaluations,
    supersede_evaluations,
    superseded_evaluations,
)
from nsai_work.store.journal.fences import fence
from nsai_work.store.journal.rows import read_row
from nsai_work.store.journal.steps import (
    job_steps,
    last_closed_intent,
    last_seq_id,
    open_intents,
    superseded_steps,
)
from nsai_work.store.lifecycle.events import append_events
from nsai_work.store.records import Claim
from nsai_work.store.schema import NO_STEP, events, intents, runs, steps


def snapshot(tx: Tx, claim: Claim) -> JournalSnapshot:
    """The whole journal of a claimed job, for an owner that begins to work on it."""
    fence(tx, claim)
    lineage = job_runs(tx, claim.seq)
    closed = last_closed_intent(tx, claim.seq, lineage[-1].generation) if lineage else None
    return JournalSnapshot(
        runs=lineage,
        steps=job_steps(tx, claim.seq),
        superseded=superseded_steps(tx, claim.seq),
        open_intents=open_intents(tx, claim.seq, lineage[-1].generation, closed) if lineage else [],
        checkpoints=job_checkpoints(tx, claim.seq),
        last_seq_id=last_seq_id(tx, claim.seq, lineage[-1].generation) if lineage else None,
        last_closed=closed,
        evaluations=job_evaluations(tx, claim.seq),
        superseded_evaluations=superseded_evaluations(tx, claim.seq),
    )


def job_runs(tx: Tx, seq: int) -> list[RemoteRun]:
    """The remote runs of a job, in order of their generations."""
    rows = tx.connection.execute(select(runs).where(runs.c.job_seq == seq).order_by(runs.c.generation))
    return [_run_of(row) for row in rows]


def _run_of(row: Row[Any]) -> RemoteRun:
    values = dict(row._mapping) | {"lost_steps": row.lost_steps or 0}
    del values["job_seq"], values["started_at"]
    return read_row(runs, row, RemoteRun, values)


def begin_run(tx: Tx, claim: Claim, run: RemoteRun) -> None:
    """Record a new remote run, supersede what it repeats of older runs, and close their open intents."""
    fence(tx, claim)
    insert_new(tx, runs, [{**run.model_dump(mode="json"), "job_seq": claim.seq, "started_at": tx.now}])
    older = (steps.c.job_seq == claim.seq) & (steps.c.generation < run.generation)
    superseded = older & (steps.c.step > run.from_step) & steps.c.superseded_by.is_(None)
    tx.connection.execute(update(steps).where(superseded).values(superseded_by=run.generation))
    supersede_evaluations(tx, claim, run)
    stale = (intents.c.job_seq == claim.seq) & (intents.c.generation < run.generation)
    tx.connection.execute(update(intents).where(stale, intents.c.closed.is_(False)).values(closed=True))
    data = {
        "generation": run.generation,
        "run_id": run.ref.run_id,
        "from_step": run.from_step,
        "resume": str(run.resume),
        "restored_from": run.restored_from,
    }
    append_events(tx, [(claim.seq, "run.began", data)])


def end_run(tx: Tx, claim: Claim, generation: int, reason: str) -> None:
    """Record why a remote run ended."""
    fence(tx, claim)
    run = (runs.c.job_seq == claim.seq) & (runs.c.generation == generation)
    tx.connection.execute(update(runs).where(run).values(end_reason=reason))
    append_events(tx, [(claim.seq, "run.ended", {"generation": generation, "reason": reason})])


def set_resume(tx: Tx, claim: Claim, generation: int, resume: ResumeMode) -> None:
    """Record how a run resumed."""
    fence(tx, claim)
    run = (runs.c.job_seq == claim.seq) & (runs.c.generation == generation)
    tx.connection.execute(update(runs).where(run).values(resume=str(resume)))
    append_events(tx, [(claim.seq, "run.resumed", {"generation": generation, "resume": str(resume)})])


def append_event(tx: Tx, claim: Claim, name: str, data: dict[str, JsonValue]) -> None:
    """Append an event to the log of a claimed job."""
    fence(tx, claim)
    append_events(tx, [(claim.seq, name, data)])


def has_event(tx: Tx, claim: Claim, name: str) -> bool:
    """Check whether the log of a claimed job has an event of this name, other than ``step``."""
    fence(tx, claim)
    return tx.connection.execute(_named(claim, name).limit(1)).first() is not None


def events_of(tx: Tx, claim: Claim, name: str) -> list[dict[str, JsonValue]]:
    """The data of the events of this name, other than ``step``, in the log of a claimed job, in order."""
    fence(tx, claim)
    rows = tx.connection.execute(_named(claim, name).order_by(events.c.seq))
    return [row.data if isinstance(row.data, dict) else {} for row in rows]


def _named(claim: Claim, name: str) -> Select[Any]:
    return select(events.c.data).where(events.c.job_seq == claim.seq, NO_STEP, events.c.name == name)
