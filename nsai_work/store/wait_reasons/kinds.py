"""The kinds of wait reasons, by which metrics count waiting jobs: a reason names jobs, times and numbers."""

from enum import StrEnum
from typing import Final

from sqlalchemy import and_, case, func, or_, select

from nsai_work.lifecycle import JobStatus
from nsai_work.store.engine.database import Tx
from nsai_work.store.lifecycle.wait_events import BEHIND
from nsai_work.store.maintenance.workers import present_workers
from nsai_work.store.schema import jobs, status_in
from nsai_work.store.wait_reasons.reason import BUSY, NO_WORKER, SHARE, TURN


class WaitKind(StrEnum):
    """A kind of wait reason. ``service`` is that of running jobs."""

    NO_WORKER = "no_worker"
    NO_BACKEND = "no_backend"
    LIMIT = "limit"
    TURN = "turn"
    BEHIND = "behind"
    BUSY = "busy"
    NOT_BEFORE = "not_before"
    DEPENDENCY = "dependency"
    CREDIT = "credit"
    SERVICE_LIMIT = "service_limit"
    SERVICE = "service"
    REQUEUED = "requeued"


PREFIXES: Final = {
    WaitKind.NO_WORKER: (NO_WORKER,),
    WaitKind.NO_BACKEND: ("no worker has backend", "no worker takes priority", "no worker can run it"),
    WaitKind.LIMIT: ("limit of ", "quota of ", "concurrency group is full"),
    WaitKind.TURN: (TURN, SHARE),
    WaitKind.BEHIND: (BEHIND,),
    WaitKind.BUSY: (BUSY,),
    WaitKind.NOT_BEFORE: ("not before ",),
    WaitKind.DEPENDENCY: ("depends on ", "about to be queued"),
    WaitKind.CREDIT: ("out of credit",),
    WaitKind.SERVICE_LIMIT: ("the service is at its limit",),
}
"""The first words of the recorded reasons of each kind. Any other is of the kind ``requeued``."""


def count_waits(tx: Tx) -> dict[WaitKind, int]:
    """The numbers of jobs that wait with a recorded reason, by kind. While no worker is alive, whose maintenance
    would record it, that is the reason of all ready jobs."""
    ready = and_(status_in(JobStatus.QUEUED), jobs.c.run_at.is_(None))
    nobody = not any(worker.job_ids is None for worker in present_workers(tx))
    kinds = [(status_in(JobStatus.RUNNING), str(WaitKind.SERVICE))]
    if nobody:
        kinds.append((ready, str(WaitKind.NO_WORKER)))
    for kind, prefixes in PREFIXES.items():
        begins = or_(*(jobs.c.wait_reason.startswith(prefix, autoescape=True) for prefix in prefixes))
        kinds.append((begins, str(kind)))
    kind_of = case(*kinds, else_=str(WaitKind.REQUEUED)).label("wait_kind")
    waiting = status_in(JobStatus.PENDING, JobStatus.QUEUED, JobStatus.RUNNING)
    explained = jobs.c.wait_reason.is_not(None)
    found = select(kind_of, func.count().label("number")).where(
        waiting, or_(explained, ready) if nobody else explained
    )
    counts = dict.fromkeys(WaitKind, 0)
    for row in tx.connection.execute(found.group_by("wait_kind")):
        counts[WaitKind(row.wait_kind)] = row.number
    return counts
