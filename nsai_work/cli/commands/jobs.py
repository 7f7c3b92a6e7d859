"""``list``, ``show``, ``steps`` and ``checkpoints``: what the store knows of jobs. They change nothing."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from nsai_work.cli.error_report import describe_failure
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.job_result import result_facts
from nsai_work.cli.output import ago, as_json, write_json, write_pairs, write_table
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import the_store
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.journal import CheckpointRecord


def list_jobs(
    status: Annotated[JobStatus | None, typer.Option(help="Only this status.")] = None,
    kind: Annotated[JobKind | None, typer.Option(help="Only this kind.")] = None,
    backend: Annotated[str | None, typer.Option(help="Only this backend.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's.")] = None,
    tag: Annotated[str | None, typer.Option(help="Only those with this tag.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="At most so many.")] = 50,
    after: Annotated[str | None, typer.Option(help="Only those older than this job (the last id seen).")] = None,
    json_output: JsonFlag = False,
) -> None:
    """List jobs, newest first."""
    from nsai_work.store.records import JobFilter

    wanted = JobFilter(status=status, kind=kind, backend=backend, tenant_id=tenant, tag=tag)
    jobs = the_store().list_jobs(wanted, limit=limit, after=after)
    if json_output:
        write_json([as_json(job) for job in jobs])
        return
    now = datetime.now(UTC)
    rows = [
        (job.id, job.status, ago(job.created_at, now), job.kind, job.backend, job.name, _remark(job))
        for job in jobs
    ]
    write_table(("ID", "STATUS", "CREATED", "KIND", "BACKEND", "NAME", ""), rows, nothing="no jobs")


def show(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Show a job: its state, its result or error, and the remote runs under it."""
    store = the_store()
    job = find_job(store, job_id)
    if json_output:
        write_json(as_json(job))
        return
    write_pairs(_facts(job))
    runs = [
        (run.generation, run.ref.run_id, run.from_step, run.resume, run.end_reason) for run in store.runs(job.id)
    ]
    if runs:
        typer.echo()
        write_table(("GENERATION", "REMOTE RUN", "FROM STEP", "RESUME", "ENDED"), runs, nothing="")
    if job.error is not None:
        typer.echo()
        typer.echo(describe_failure(job.error))


def steps(job_id: JobId, json_output: JsonFlag = False) -> None:
    """List the optimizer steps that count, in order, each once."""
    store = the_store()
    records = store.steps(find_job(store, job_id).id)
    if json_output:
        write_json([as_json(record) for record in records])
        return
    rows = [(record.step, record.epoch, record.loss, record.tokens, record.learning_rate) for record in records]
    write_table(("STEP", "EPOCH", "LOSS", "TOKENS", "LEARNING RATE"), rows, nothing="no steps yet")


def checkpoints(job_id: JobId, json_output: JsonFlag = False) -> None:
    """List the checkpoints: where they lie, their step and metric, and whether they are kept."""
    store = the_store()
    records = store.checkpoints(find_job(store, job_id).id)
    if json_output:
        write_json([checkpoint_json(record) for record in records])
        return
    rows = [
        (record.step, record.name, record.status, record.metric, _marks(record), record.path) for record in records
    ]
    write_table(("STEP", "NAME", "STATUS", "METRIC", "", "PATH"), rows, nothing="no checkpoints yet")


def checkpoint_json(record: "CheckpointRecord") -> dict[str, JsonValue]:
    """A checkpoint as data, with ``kept``: it is there and meant to stay."""
    return {**as_json(record), "kept": record.kept}


def _marks(record: "CheckpointRecord") -> list[str]:
    return [word for word, said in (("final", record.final), ("promoted", record.promoted)) if said]


def _remark(job: "Job") -> str:
    if job.error is not None:
        return f"{job.error.code}: {job.error.message.splitlines()[0][:80]}"
    return job.wait_reason or ""


def _facts(job: "Job") -> list[tuple[str, object]]:
    now = datetime.now(UTC)
    facts: list[tuple[str, object]] = [
        ("id", job.id),
        ("name", job.name),
        ("kind", job.kind),
        ("backend", job.backend),
        ("status", job.status),
        ("waits for", job.wait_reason),
        ("attempt", f"{job.attempt} of at most {job.retry_policy.max_attempts}" if job.attempt else "none yet"),
        ("priority", job.priority),
        ("tenant", job.tenant_id),
        ("tags", job.tags),
        ("worker", job.worker_id),
        ("created", _moment(job.created_at, now)),
        ("started", _moment(job.started_at, now)),
        ("completed", _moment(job.completed_at, now)),
        ("base model", job.payload.get("base_model")),
    ]
    return facts + result_facts(job.result)


def _moment(moment: datetime | None, now: datetime) -> str | None:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S} ({ago(moment, now)})" if moment else None
