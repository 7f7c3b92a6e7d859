"""The list of jobs, newest first, in pages."""

from typing import Final

from nsai_work.lifecycle import JobStatus
from nsai_work.page.views.parts.job_line import JobLine, counts_by_status, job_lines
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.payloads import JobKind
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.jobs import list_jobs
from nsai_work.store.queries.queue_state import job_counts
from nsai_work.store.records import JobFilter

PAGE_LENGTH: Final = 50


class JobsQuery(ViewQuery):
    """The conditions of the list. ``after`` is the id of the last job of the page before."""

    status: JobStatus | None = None
    kind: JobKind | None = None
    backend: str | None = None
    tenant: str | None = None
    tag: str | None = None
    after: str | None = None


class Jobs(View):
    """A page of the list. ``counts`` are the numbers of all jobs by status, ``next`` is the ``after`` of the page
    that follows."""

    query: JobsQuery
    counts: dict[str, int]
    kinds: list[str]
    backends: list[str]
    jobs: list[JobLine]
    next: str | None


def read_jobs(tx: Tx, query: JobsQuery) -> Jobs:
    """Read a page of the list. Raises JobNotFound if there is no job ``after``."""
    conditions = JobFilter(
        status=query.status, kind=query.kind, backend=query.backend, tenant_id=query.tenant, tag=query.tag
    )
    found = list_jobs(tx, conditions, limit=PAGE_LENGTH + 1, after=query.after)
    numbers = job_counts(tx)
    return Jobs(
        query=query,
        counts=counts_by_status(numbers),
        kinds=sorted({row.kind for row in numbers}),
        backends=sorted({row.backend for row in numbers}),
        jobs=job_lines(tx, found[:PAGE_LENGTH]),
        next=found[PAGE_LENGTH - 1].id if len(found) > PAGE_LENGTH else None,
    )
