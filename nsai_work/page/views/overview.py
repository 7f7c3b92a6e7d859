"""The overview: what runs, what waits and why, what failed, and who works."""

from typing import Final

from nsai_work.lifecycle import JobStatus
from nsai_work.page.drawing.sparkline import sparkline
from nsai_work.page.views.parts.job_line import JobLine, counts_by_status, job_lines
from nsai_work.page.views.parts.log_line import LogLine, log_lines
from nsai_work.page.views.parts.wait_line import WaitLine, wait_lines
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.workers import present_workers
from nsai_work.store.queries.job_log import newest_events
from nsai_work.store.queries.jobs import list_jobs, seq_of
from nsai_work.store.queries.loss_curve import sampled_losses
from nsai_work.store.queries.queue_state import job_counts, wait_counts
from nsai_work.store.records import JobFilter

MAX_RUNNING: Final = 12
MAX_ENDED: Final = 8
MAX_INCIDENTS: Final = 12
SAMPLES: Final = 60

INCIDENTS: Final = (
    "training.incident",
    "resume.warm",
    "resume.restored",
    "resume.restarted",
    "resume.verified",
    "resume.cold",
    "step.skipped",
    "evaluation.differs",
    "checkpoint.lost",
    "job.failed",
    "job.timeout",
)
"""The events of all jobs that the overview shows."""


class RunningJob(JobLine):
    """A running job with its newest losses, as a path of a small drawing."""

    path: str = ""


class Overview(View):
    """The state of everything at one moment. ``counts`` are the numbers of jobs by status."""

    counts: dict[str, int]
    workers: int
    running: list[RunningJob]
    waits: list[WaitLine]
    failed: list[JobLine]
    incidents: list[LogLine]


def read_overview(tx: Tx, query: ViewQuery) -> Overview:
    """Read the overview."""
    del query
    running = list_jobs(tx, JobFilter(status=JobStatus.RUNNING), limit=MAX_RUNNING)
    lines = job_lines(tx, running)
    seqs = [seq_of(tx, line.id) for line in lines if line.step is not None]
    failed = list_jobs(tx, JobFilter(status=JobStatus.FAILED), limit=MAX_ENDED)
    return Overview(
        counts=counts_by_status(job_counts(tx)),
        workers=len(present_workers(tx)),
        running=[_running(tx, line) for line in lines],
        waits=wait_lines(wait_counts(tx)),
        failed=job_lines(tx, failed),
        incidents=log_lines(newest_events(tx, INCIDENTS, seqs, limit=MAX_INCIDENTS)),
    )


def _running(tx: Tx, line: JobLine) -> RunningJob:
    losses = [] if line.step is None else sampled_losses(tx, seq_of(tx, line.id), line.step, count=SAMPLES)
    return RunningJob(**line.model_dump(), path=sparkline(losses))
