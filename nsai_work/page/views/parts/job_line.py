"""A job as a line of a list: how far it is, or why it waits or failed."""

import contextlib
import math
from collections.abc import Iterable, Sequence

from crucible.values.scalars import Instant
from nsai_work.errors import JobNotFound
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.page.views.view import View
from nsai_work.presentation.progress import requested_steps
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.progress import training_progress
from nsai_work.store.records import JobCount, TrainingProgress

MAX_DETAIL = 160


class JobLine(View):
    """A line of a list of jobs: the progress of a running one, what an ended one came to. ``detail`` is its error,
    or why it waits."""

    id: str
    name: str | None
    kind: str
    backend: str
    status: JobStatus
    created_at: Instant | None
    ended_at: Instant | None
    tags: tuple[str, ...]
    step: int | None = None
    total: int | None = None
    loss: float | None = None
    tokens_per_s: float | None = None
    resume: str | None = None
    detail: str | None = None


def counts_by_status(numbers: Iterable[JobCount]) -> dict[str, int]:
    """The numbers of jobs of each status, 0 included."""
    counts = dict.fromkeys(map(str, JobStatus), 0)
    for found in numbers:
        counts[found.status] = counts.get(found.status, 0) + found.number
    return counts


def job_lines(tx: Tx, jobs: Sequence[Job]) -> list[JobLine]:
    """The lines of jobs, with the progress of those that run."""
    return [job_line(tx, job) for job in jobs]


def job_line(tx: Tx, job: Job) -> JobLine:
    """The line of a job."""
    progress = _progress(tx, job.id) if job.status is JobStatus.RUNNING else None
    return JobLine(
        id=job.id,
        name=job.name,
        kind=str(job.kind),
        backend=job.backend,
        status=job.status,
        created_at=job.created_at,
        ended_at=job.completed_at,
        tags=job.tags,
        step=_whole(job, "steps") if progress is None else progress.step,
        total=requested_steps(job),
        loss=_number(job, "loss") if progress is None else progress.loss,
        tokens_per_s=None if progress is None else progress.tokens_per_s,
        resume=None if progress is None else progress.resume,
        detail=_detail(job),
    )


def _progress(tx: Tx, job_id: str) -> TrainingProgress | None:
    # a job that cannot be read has an id that no job has, if its own is what is damaged
    with contextlib.suppress(JobNotFound):
        return training_progress(tx, job_id)
    return None


def _number(job: Job, name: str) -> float | None:
    """A number of the job's result."""
    value = None if job.result is None else job.result.get(name)
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _whole(job: Job, name: str) -> int | None:
    value = _number(job, name)
    return None if value is None else round(value)


def _detail(job: Job) -> str | None:
    if job.error is not None and job.status.ended:
        first = job.error.message.splitlines() or [""]
        return f"{job.error.code}: {first[0][:MAX_DETAIL]}"
    return job.wait_reason
