"""``nsai-work list``, ``show``, ``steps``, ``evaluations`` and ``checkpoints``: read jobs from the store."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.error_report import describe_failure
from nsai_work.cli.output.job_result import result_fields, so_far
from nsai_work.cli.output.stdout import shortened_to, write_fields, write_json, write_line, write_table
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store, get_store, load_settings, missing_store
from nsai_work.identifiers import short_id
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import REWARD, JobKind
from nsai_work.policies import EVAL_LOSS, EVAL_REWARD
from nsai_work.presentation.goodput_text import goodput_text
from nsai_work.presentation.json_forms import as_json, checkpoint_json
from nsai_work.presentation.progress import requested_steps
from nsai_work.presentation.quantities import ago, duration_text

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.journal import CheckpointRecord, EvaluationRecord
    from nsai_work.store.records import TrainingProgress

WIDTH = 100
MAX_NAME = 24
MAX_PROGRESS = 50
"""The number of running jobs whose progress a list shows."""
STYLES: dict[str, str] = {
    JobStatus.RUNNING: "cyan",
    JobStatus.SUCCEEDED: "green",
    JobStatus.FAILED: "bold red",
    JobStatus.TIMEOUT: "bold red",
    JobStatus.CANCELED: "yellow",
    JobStatus.PENDING: "dim",
}


def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only jobs with this status.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only jobs of this kind.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only jobs of this backend.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only jobs of this tenant.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only jobs with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Maximum number of jobs.")] = 50,
    after: Annotated[
        str | None, typer.Option(help="Only jobs older than the job with this ID, for the next page.")
    ] = None,
    json_output: JsonFlag = False,
) -> None:
    """List jobs, newest first.

    The IDs are shortened to their ends, which every command takes; --json has them whole.
    """
    from nsai_work.store.records import JobFilter

    job_filter = JobFilter(status=status, kind=kind, backend=backend, tenant_id=tenant, tag=tag)
    settings = load_settings()
    jobs: list[Job] = []
    progress: dict[str, TrainingProgress | None] = {}
    if missing := missing_store(settings):
        write_line(missing, err=True)
    else:
        store = get_store(settings)
        last = find_job(store, after).id if after else None
        jobs = store.list_jobs(job_filter, limit=limit, after=last)
        running = [job.id for job in jobs if job.status is JobStatus.RUNNING][:MAX_PROGRESS]
        progress = {} if json_output else {job_id: store.progress(job_id) for job_id in running}
    if json_output:
        write_json([as_json(job) for job in jobs])
        return
    now = datetime.now(UTC)
    rows = [
        (
            short_id(job.id),
            job.status,
            ago(job.created_at, now),
            job.backend,
            shortened_to(job.name or job.kind, MAX_NAME),
            _detail(job, progress.get(job.id)),
        )
        for job in jobs
    ]
    headings = ("ID", "STATUS", "CREATED", "BACKEND", "NAME OR KIND", "DETAIL")
    write_table(headings, rows, if_empty="no jobs", width=WIDTH, styles=STYLES)


def _detail(job: "Job", progress: "TrainingProgress | None") -> str:
    """The job's step and loss, its error, or its wait reason."""
    if progress is None or job.wait_reason:
        return _reason(job)
    total = requested_steps(job)
    shown = f"loss {progress.loss:.4g}" if progress.reward is None else f"reward {progress.reward:.4g}"
    return f"step {progress.step}{f'/{total}' if total else ''}  {shown}"


def show(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Show a job: its status, its result or error, its remote runs, and the jobs of a run that was extended."""
    from nsai_work.client.extend import run_line

    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    progress = store.progress(job.id) if job.status is JobStatus.RUNNING else None
    used = store.goodput(job.id)
    if json_output:
        seen: dict[str, JsonValue] = {"goodput": used.as_json()}
        seen["line"] = [each.id for each in run_line(store, job)]
        if progress is not None:
            at: dict[str, JsonValue] = {"step": progress.step, "total": requested_steps(job), "loss": progress.loss}
            seen["progress"] = at if progress.reward is None else {**at, "reward": progress.reward}
        write_json(as_json(job) | seen)
        return
    write_fields([*_fields(job, progress), ("goodput", goodput_text(used.as_json()))])
    runs = [
        (run.generation, run.ref.run_id, run.from_step, run.resume, run.end_reason) for run in store.runs(job.id)
    ]
    if runs:
        write_line()
        write_table(("GENERATION", "REMOTE RUN", "FROM STEP", "RESUME", "END REASON"), runs, if_empty="")
    line = run_line(store, job)
    if len(line) > 1:
        write_line()
        rows = [(each.id, each.status, *_steps_of(each), "this job" if each.id == job.id else "") for each in line]
        write_table(("JOB", "STATUS", "FROM STEP", "TO STEP", ""), rows, if_empty="")
    if job.error is not None:
        write_line()
        write_line(describe_failure(job.error))


def _steps_of(job: "Job") -> tuple[int, int | None]:
    """The steps of a job in the line of a run that was continued: after which they begin, and the last."""
    start = job.payload.get("continue_from")
    first = start.get("step") if isinstance(start, Mapping) else 0
    done = (job.result or {}).get("steps")
    return first if isinstance(first, int) else 0, done if isinstance(done, int) else requested_steps(job)


def steps(job_id: JobId, json_output: JsonFlag = False) -> None:
    """List the effective optimizer steps of a job, in order.

    Each step is listed once: steps that were superseded by a restore are left out.
    """
    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    records, evaluated = store.steps(job.id), {each.step: each for each in store.evaluations(job.id)}
    if json_output:
        write_json(
            [
                as_json(record)
                | ({"evaluation": as_json(evaluated[record.step])} if record.step in evaluated else {})
                for record in records
            ]
        )
        return
    rewarded = any(REWARD in record.metrics for record in records)
    shown = EVAL_REWARD if rewarded else EVAL_LOSS
    rows: list[tuple[object, ...]] = [
        (
            record.step,
            record.epoch,
            record.loss,
            record.tokens,
            record.learning_rate,
            *([record.metrics.get(REWARD)] if rewarded else []),
            *_evaluated(evaluated, record.step, shown),
        )
        for record in records
    ]
    header: tuple[str, ...] = ("STEP", "EPOCH", "LOSS", "TOKENS", "LEARNING RATE")
    if rewarded:
        header = (*header, "REWARD")
    if evaluated:
        header = (*header, shown.replace(".", " ").upper())
        rows = [(0, *(None for _ in header[2:]), *_evaluated(evaluated, 0, shown)), *rows]
    write_table(header, rows, if_empty=_none_of(job, "steps"))


def _none_of(job: "Job", what: str, *, lacks: str | None = None) -> str:
    """The text in the place of an empty table: whether there will be something in it. ``lacks`` is the field
    without which there is nothing."""
    if job.kind is not JobKind.TRAINING_STEP:
        return f"no {what}: a job of kind {job.kind} trains no model"
    if lacks is not None and job.payload.get(lacks) is None:
        return f"no {what}: the job has no {lacks}"
    return f"no {what}{so_far(job.status)}"


def _evaluated(evaluated: "Mapping[int, EvaluationRecord]", step: int, metric: str) -> tuple[float | None, ...]:
    """The cell of the column of evaluations, if there is such a column."""
    if not evaluated:
        return ()
    return (evaluated[step].metrics.get(metric) if step in evaluated else None,)


def evaluations(job_id: JobId, json_output: JsonFlag = False) -> None:
    """List the effective evaluations of a training job, in order of their steps; step 0 is before the first."""
    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    records = store.evaluations(job.id)
    if json_output:
        write_json([as_json(record) for record in records])
        return
    names = sorted({name for record in records for name in record.metrics})
    rows = [
        (record.step, *(record.metrics.get(name) for name in names), record.rows, record.tokens)
        for record in records
    ]
    header = ("STEP", *map(str.upper, names), "ROWS", "TOKENS")
    write_table(header, rows, if_empty=_none_of(job, "evaluations", lacks="eval"))


def checkpoints(job_id: JobId, json_output: JsonFlag = False) -> None:
    """List the checkpoints of a job."""
    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    records = store.checkpoints(job.id)
    if json_output:
        write_json([checkpoint_json(record) for record in records])
        return
    rows = [
        (record.step, record.name, record.status, record.metric, _marks(record), record.path) for record in records
    ]
    header = ("STEP", "NAME", "STATUS", "METRIC", "MARKS", "PATH")
    write_table(header, rows, if_empty=_none_of(job, "checkpoints"))


def _marks(record: "CheckpointRecord") -> list[str]:
    return [mark for mark, is_set in (("final", record.final), ("promoted", record.promoted)) if is_set]


def _reason(job: "Job") -> str:
    if job.error is not None:
        return f"{job.error.code}: {job.error.message.splitlines()[0][:80]}"
    start = job.payload.get("continue_from")
    line = f"goes on with {short_id(str(start['job']))}" if isinstance(start, Mapping) and "job" in start else ""
    return job.wait_reason or line


def progress_fields(job: "Job", progress: "TrainingProgress | None") -> list[tuple[str, object]]:
    """Return how far a running training job is, as labeled values."""
    if progress is None:
        return []
    total = requested_steps(job)
    steps_per_s, tokens_per_s = progress.steps_per_s, progress.tokens_per_s
    if job.wait_reason is not None:  # what it did before says nothing of when it goes on
        steps_per_s = tokens_per_s = None
    left = None if total is None or not steps_per_s else (total - progress.step) / steps_per_s
    return [
        ("step", f"{progress.step} of {total}" if total else progress.step),
        ("reward", progress.reward),
        ("loss", progress.loss),
        ("speed", None if tokens_per_s is None else f"{tokens_per_s:,.0f} tokens/s"),
        ("time left", None if left is None else f"about {duration_text(left)}"),
        ("last resume", progress.resume),
    ]


def _fields(job: "Job", progress: "TrainingProgress | None") -> list[tuple[str, object]]:
    now = datetime.now(UTC)
    fields: list[tuple[str, object]] = [
        ("id", job.id),
        ("name", job.name),
        ("kind", job.kind),
        ("backend", job.backend),
        ("status", job.status),
        ("waiting", job.wait_reason),
        *progress_fields(job, progress),
        ("attempt", f"{job.attempt} of at most {job.retry_policy.max_attempts}" if job.attempt else "none yet"),
        ("priority", job.priority),
        ("tenant", job.tenant_id),
        ("tags", job.tags),
        ("worker", job.worker_id),
        ("created", _time_text(job.created_at, now)),
        ("started", _time_text(job.started_at, now)),
        ("completed", _time_text(job.completed_at, now)),
        ("base model", job.payload.get("base_model")),
    ]
    return fields + result_fields(job.result)


def _time_text(time: datetime | None, now: datetime) -> str | None:
    if time is None:
        return None
    try:
        local = time.astimezone()
    except OverflowError:  # the end of the calendar, in this time zone
        local = time
    return f"{local:%Y-%m-%d %H:%M:%S} ({ago(time, now)})"
