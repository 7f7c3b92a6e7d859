"""The jobs that a claim has locked: the front jobs of lanes, within the capacity under the limits."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Final

from sqlalchemy import BigInteger, Integer, Row, Select, bindparam, update

from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim.candidates import Candidate
from nsai_work.store.claim.capacity import Capacity
from nsai_work.store.engine.database import PREPARED, Tx
from nsai_work.store.lanes import ready_in
from nsai_work.store.records import ClaimRequest
from nsai_work.store.rows import select_jobs
from nsai_work.store.schema import jobs
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

_BEFORE_FIRST: Final = -1
"""Below the seq of any job."""


@dataclass(frozen=True, slots=True)
class LockedJob:
    """A ready job that this claim has locked, with the backend and credential it will run with."""

    row: Row[Any]
    backend: str
    credential: str


@dataclass
class LockedJobs:
    """The jobs that a claim has locked so far. ``passed`` is the last seq that it has read, by lane."""

    tx: Tx
    request: ClaimRequest
    capacity: Capacity
    locked: list[LockedJob] = field(default_factory=list)
    passed: dict[int, int] = field(default_factory=dict)

    @property
    def missing(self) -> int:
        """The number of jobs that may still be added."""
        return self.request.limit - len(self.locked)

    def add_from(self, lane: Candidate, limit: int) -> int:
        """Lock up to ``limit`` jobs at the front of a lane. Returns their number."""
        added = 0
        for backend, credential in lane.backends:
            count = min(limit - added, self.capacity.available(lane, credential))
            if count <= 0:
                continue
            rows = self._readable(self._lock_front(lane, count))
            self.capacity.use(lane, credential, len(rows))
            self.locked += [LockedJob(row, backend, credential) for row in rows]
            added += len(rows)
        return added

    def _readable(self, rows: Sequence[Row[Any]]) -> list[Row[Any]]:
        """The rows without those whose counters are no numbers (SQLite takes any value). These fail at once, as no
        attempt can be counted; they must not stand before other jobs for ever."""
        broken = [row.seq for row in rows if not isinstance(row.fence, int) or not isinstance(row.attempt, int)]
        if broken:
            log.error("store.unreadable_jobs", job_ids=[row.id for row in rows if row.seq in broken])
            failed = update(jobs).where(jobs.c.seq.in_(broken))
            values = {"status": str(JobStatus.FAILED), "fence": 0, "attempt": 0, "completed_at": self.tx.now}
            self.tx.connection.execute(failed.values(**values))
        return [row for row in rows if row.seq not in broken]

    def _lock_front(self, lane: Candidate, count: int) -> Sequence[Row[Any]]:
        """Lock the first ``count`` ready jobs of a lane that no other transaction has locked."""
        values: dict[str, object] = {
            "lane_id": lane.lane_id,
            "count": count,
            "passed": self.passed.get(lane.lane_id, _BEFORE_FIRST),
        }
        if self.request.selection.job_ids is not None:
            values["job_ids"] = list(self.request.selection.job_ids)
        if self.request.selection.excluded:
            values["excluded"] = list(self.request.selection.excluded)
        statement = _front_of_lane("job_ids" in values, "excluded" in values)
        rows = self.tx.connection.execute(statement, values).all()
        if rows:
            self.passed[lane.lane_id] = rows[-1].seq
        return rows


@lru_cache
def _front_of_lane(by_id: bool, excluding: bool) -> Select[Any]:
    lane_id, passed = (bindparam(name, type_=BigInteger()) for name in ("lane_id", "passed"))
    statement = select_jobs().where(*ready_in(lane_id), jobs.c.seq > passed).order_by(jobs.c.seq)
    if by_id:
        statement = statement.where(jobs.c.id.in_(bindparam("job_ids", expanding=True)))
    if excluding:
        statement = statement.where(jobs.c.seq.not_in(bindparam("excluded", expanding=True)))
    statement = statement.limit(bindparam("count", type_=Integer())).with_for_update(of=jobs, skip_locked=True)
    return statement if by_id or excluding else statement.execution_options(**PREPARED)
