"""A job: how far it is, its attempts, remote runs and checkpoints, and its log. Its curve is read apart."""

from datetime import datetime, timedelta
from typing import Final

from pydantic import JsonValue

from crucible.errors import Failure
from crucible.values.scalars import Instant
from nsai_work.errors import UnreadableJournal
from nsai_work.job import Job
from nsai_work.journal import CheckpointRecord, CheckpointStatus
from nsai_work.lifecycle import JobStatus
from nsai_work.page.drawing.attempt_bar import DrawnAttempt, draw_attempts
from nsai_work.page.views.parts.curve_data import CurveData, read_curve
from nsai_work.page.views.parts.figures import Figure, figures
from nsai_work.page.views.parts.log_line import LogLine, log_lines
from nsai_work.page.views.parts.time_use import TimeUse, read_time_use
from nsai_work.page.views.rollouts import Rollouts, read_rollouts
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.payloads import JobKind
from nsai_work.presentation.progress import requested_steps
from nsai_work.store.engine.database import Tx
from nsai_work.store.journal.checkpoints import newest_checkpoints
from nsai_work.store.journal.runs import job_runs
from nsai_work.store.queries.job_log import job_log, last_event, newest_step
from nsai_work.store.queries.jobs import find, job_attempts, seq_of
from nsai_work.store.records import AttemptRow, EventRow
from nsai_work.store.worker_id import WorkerId

MAX_LOG: Final = 200
MAX_ATTEMPTS: Final = 50
MAX_CHECKPOINTS: Final = 15


class JobQuery(ViewQuery):
    """The job, the number of the log's entry before which to begin, and the step whose rollouts are shown."""

    id: str
    before: int | None = None
    step: int | None = None


class AttemptLine(View):
    """An attempt at the job. ``worker`` is its host and process; ``outcome`` is None while it runs."""

    attempt: int
    worker: str
    backend: str
    started_at: Instant
    ended_at: Instant | None
    seconds: float
    outcome: str | None
    failure: str | None


class RunLine(View):
    """A remote run of the job's lineage."""

    generation: int
    run_id: str
    from_step: int
    resume: str
    lost_steps: int
    restored_from: str | None
    end_reason: str | None


class CheckpointLine(View):
    """A checkpoint. ``marks`` are final and promoted, as far as they apply."""

    step: int
    name: str
    status: str
    metric: float | None
    marks: list[str]
    path: str | None
    size_bytes: int | None
    may_promote: bool


class JobPage(View):
    """A job as its page shows it. ``last_event`` is the number of the newest included event, ``damage`` says
    why its rollouts cannot be read."""

    id: str
    name: str | None
    kind: str
    backend: str
    status: JobStatus
    wait_reason: str | None
    base_model: str | None
    lora_rank: int | None
    tenant_id: str
    priority: str
    tags: tuple[str, ...]
    attempt: int
    max_attempts: int
    worker: str | None
    created_at: Instant | None
    started_at: Instant | None
    completed_at: Instant | None
    is_cancel_requested: bool
    error: Failure | None
    result: dict[str, JsonValue] | None
    figures: list[Figure]
    total: int | None
    attempts: list[AttemptLine]
    attempt_bar: list[DrawnAttempt]
    runs: list[RunLine]
    checkpoints: list[CheckpointLine]
    hidden_checkpoints: int
    goodput: TimeUse | None
    log: list[LogLine]
    older: int | None
    last_event: int
    curve: CurveData | None = None
    rollouts: Rollouts | None = None
    damage: str | None = None

    @property
    def has_curve(self) -> bool:
        """The job has a loss curve."""
        return self.kind == JobKind.TRAINING_STEP


def read_job(tx: Tx, query: JobQuery) -> JobPage:
    """Read a job without its curve. Raises JobNotFound."""
    job = find(tx, query.id)
    seq = seq_of(tx, job.id)
    newest = last_event(tx, seq)
    log = job_log(tx, seq, before=query.before, limit=MAX_LOG)
    step = newest_step(tx, seq)
    attempts = job_attempts(tx, job.id)[-MAX_ATTEMPTS:]
    runs = job_runs(tx, seq)
    saved, ever_saved = newest_checkpoints(tx, seq, limit=MAX_CHECKPOINTS)
    used = read_time_use(tx, job, step)
    total = _total(job, step)
    rollouts, damage = _rollouts(tx, job, seq, query.step, total)
    began = attempts[0].started_at if len(attempts) == MAX_ATTEMPTS else job.created_at or tx.now
    return JobPage(
        id=job.id,
        name=job.name,
        kind=str(job.kind),
        backend=job.backend,
        status=job.status,
        wait_reason=job.wait_reason,
        base_model=_text(job.payload.get("base_model")),
        lora_rank=_rank(job),
        tenant_id=job.tenant_id,
        priority=str(job.priority),
        tags=job.tags,
        attempt=job.attempt,
        max_attempts=job.retry_policy.max_attempts,
        worker=None if job.worker_id is None else worker_text(job.worker_id),
        created_at=job.created_at,
        started_at=job.started_at,
        completed_at=job.completed_at,
        is_cancel_requested=job.cancel_requested_at is not None and not job.status.ended,
        error=job.error,
        result=dict(job.result) if job.result is not None else None,
        figures=[*figures(tx, job, seq, step, log, total), *(_goodput(used) if job.started_at is not None else [])],
        total=total,
        attempts=[_attempt(row, tx.now) for row in reversed(attempts)],
        attempt_bar=draw_attempts(attempts, began, job.completed_at or tx.now),
        runs=[
            RunLine(
                generation=run.generation,
                run_id=run.ref.run_id,
                from_step=run.from_step,
                resume=str(run.resume),
                lost_steps=run.lost_steps,
                restored_from=run.restored_from,
                end_reason=run.end_reason,
            )
            for run in reversed(runs)
        ],
        checkpoints=[_checkpoint(record) for record in saved],
        hidden_checkpoints=ever_saved - len(saved),
        goodput=used,
        log=log_lines(log),
        older=log[0].seq if len(log) == MAX_LOG else None,
        last_event=newest,
        rollouts=rollouts,
        damage=damage,
    )


def read_whole_job(tx: Tx, query: JobQuery) -> JobPage:
    """Read a job with its curve. Raises JobNotFound."""
    page = read_job(tx, query)
    if not page.has_curve:
        return page
    return page.model_copy(update={"curve": read_curve(tx, seq_of(tx, page.id), total=page.total)})


def _rollouts(
    tx: Tx, job: Job, seq: int, step: int | None, total: int | None
) -> tuple[Rollouts | None, str | None]:
    """The rollouts, or why they cannot be read."""
    if job.payload.get("method") != "rl":
        return None, None
    try:
        return read_rollouts(tx, seq, step, total), None
    except UnreadableJournal as error:
        return None, error.message


def worker_text(worker_id: str) -> str:
    """The host and the process of a worker."""
    worker = WorkerId.parse(worker_id)
    return worker_id if worker is None else f"{worker.host}/{worker.pid}"


def _goodput(used: TimeUse | None) -> list[Figure]:
    return [] if used is None else [Figure(label="goodput", value=f"{used.ratio * 100:.1f} %")]


def read_job_curve(tx: Tx, query: JobQuery) -> CurveData:
    """Read the curve of a job alone. Raises JobNotFound."""
    job = find(tx, query.id)
    seq = seq_of(tx, job.id)
    return read_curve(tx, seq, total=_total(job, newest_step(tx, seq)))


def _total(job: Job, step: EventRow | None) -> int | None:
    reported = None if step is None else step.data.get("total_steps")
    return reported if isinstance(reported, int) else requested_steps(job)


def _text(value: JsonValue) -> str | None:
    return value if isinstance(value, str) else None


def _rank(job: Job) -> int | None:
    lora = job.payload.get("lora")
    rank = lora.get("rank") if isinstance(lora, dict) else None
    return rank if isinstance(rank, int) else None


def _attempt(row: AttemptRow, now: datetime) -> AttemptLine:
    lasted = max((row.ended_at or now) - row.started_at, timedelta())
    return AttemptLine(
        attempt=row.attempt,
        worker=worker_text(row.worker_id),
        backend=row.backend,
        started_at=row.started_at,
        ended_at=row.ended_at,
        seconds=lasted.total_seconds(),
        outcome=row.outcome,
        failure=None if row.failure is None else f"{row.failure.code}: {row.failure.message}",
    )


def _checkpoint(record: CheckpointRecord) -> CheckpointLine:
    kept = record.status is CheckpointStatus.COMMITTED
    marks = [mark for mark, is_set in (("final", record.final), ("promoted", record.promoted)) if is_set]
    return CheckpointLine(
        step=record.step,
        name=record.name,
        status="kept" if kept else str(record.status),
        metric=record.metric,
        marks=marks,
        path=record.path,
        size_bytes=record.size_bytes,
        may_promote=kept and not record.promoted,
    )
