"""Jobs side by side: their curves on common axes, what they ended with, and where their configurations differ."""

from collections.abc import Iterator
from typing import Final

from pydantic import Field, JsonValue

from nsai_work.job import Job
from nsai_work.page.views.parts.curve_data import CurveData, read_curve
from nsai_work.page.views.parts.job_line import JobLine, job_line, job_lines
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.payloads import JobKind
from nsai_work.presentation.progress import requested_steps
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import find, list_jobs, seq_of
from nsai_work.store.queries.progress import training_progress
from nsai_work.store.records import JobFilter

MAX_JOBS: Final = 8
MAX_POINTS: Final = 400
MAX_OFFERED: Final = 30
COMPARED: Final = ("backend", "priority", "payload", "retry_policy", "constraints", "resources", "metadata")
"""The fields of jobs that are compared."""


class CompareQuery(ViewQuery):
    """The jobs to compare."""

    id: list[str] = Field(default=[], max_length=MAX_JOBS)


class ComparedJob(View):
    """A job with its curve, and the values that it ended with or has now."""

    line: JobLine
    steps: int
    loss: float | None
    reward: float | None
    evaluation: float | None
    seconds: float | None
    curve: CurveData


class Difference(View):
    """A field of the configuration that differs, with each job's value as text; None where a job has none."""

    field: str
    values: list[str | None]


class JobComparison(View):
    """A comparison. Without jobs, ``offered`` are the newest ones to choose from."""

    jobs: list[ComparedJob]
    differences: list[Difference]
    offered: list[JobLine]


def read_comparison(tx: Tx, query: CompareQuery) -> JobComparison:
    """Read the jobs and compare them. Raises JobNotFound."""
    jobs = list({job.id: job for job in (find(tx, text) for text in query.id)}.values())
    offered = [] if jobs else list_jobs(tx, JobFilter(kind=JobKind.TRAINING_STEP), limit=MAX_OFFERED)
    return JobComparison(
        jobs=[_compared(tx, job) for job in jobs],
        differences=differences(jobs),
        offered=job_lines(tx, offered),
    )


def _compared(tx: Tx, job: Job) -> ComparedJob:
    curve = read_curve(tx, seq_of(tx, job.id), total=requested_steps(job), max_points=MAX_POINTS)
    progress = training_progress(tx, job.id)
    ended = job.completed_at or tx.now
    seconds = None if job.started_at is None else max((ended - job.started_at).total_seconds(), 0.0)
    return ComparedJob(
        line=job_line(tx, job),
        steps=curve.steps[-1] if curve.steps else 0,
        loss=curve.loss[-1] if curve.loss else None,
        reward=None if progress is None else progress.reward,
        evaluation=curve.evaluations.values[-1] if curve.evaluations.values else None,
        seconds=seconds,
        curve=curve,
    )


def differences(jobs: list[Job]) -> list[Difference]:
    """The fields whose values are not equal in all jobs, in order of their names."""
    if len(jobs) < 2:
        return []
    flat = [dict(_flat("", job.model_dump(mode="json", include=set(COMPARED)))) for job in jobs]
    names = sorted({name for each in flat for name in each})
    rows = [(name, [each.get(name) for each in flat]) for name in names]
    return [Difference(field=name, values=values) for name, values in rows if len(set(values)) > 1]


def _flat(prefix: str, value: JsonValue) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _flat(f"{prefix}.{name}" if prefix else name, item)
    elif value is not None:
        yield prefix.removeprefix("payload."), f"{value:g}" if isinstance(value, float) else str(value)
