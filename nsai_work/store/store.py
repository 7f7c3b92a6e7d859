"""The store, for those who may wait: submit, steer and look, from any thread."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from sqlalchemy import URL

from nsai_work.clock import Clock, SystemClock
from nsai_work.job import Job
from nsai_work.journal import CheckpointRecord, RemoteRun, StepRecord
from nsai_work.lifecycle import JobStatus
from nsai_work.store.claim import limits
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.engines import parse_url
from nsai_work.store.journal import runs as journal
from nsai_work.store.lifecycle import cancel_retry as steering
from nsai_work.store.maintenance import pruning, workers
from nsai_work.store.queries import jobs as reading
from nsai_work.store.records import (
    AttemptRow,
    EventRow,
    JobFilter,
    Limit,
    LimitUse,
    Submitted,
    WorkerRow,
)
from nsai_work.store.submit import general as submitting
from nsai_work.store.submit import one_statement as placing


def open_store(url: str | URL, clock: Clock | None = None, *, migrate: bool = True) -> "Store":
    """A store at a database address. Connects at first use, and then makes or upgrades its tables unless
    ``migrate`` is false.

    Raises:
        InvalidRequest: the address is none that the store can use.
    """
    return Store(Database(parse_url(url), clock or SystemClock(), migrate))


def migrate_store(url: str | URL) -> None:
    """Make the tables at a database address, or bring them up to date. Raises as ``Store``'s methods."""
    store = open_store(url, migrate=True)
    try:
        store.ping()
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class Store:
    """Each method is one transaction. All of them raise StoreUnavailable when the database does not answer and
    StoreFull when there is no space; nothing is ever half-written. What else one raises, the function of the same
    name in the modules beside this one tells."""

    database: Database

    @property
    def sends_notifications(self) -> bool:
        """Whether workers hear from the database itself that a job has become ready."""
        return self.database.sends_notifications

    def close(self) -> None:
        """Close the connections. The store can be used again."""
        self.database.close()

    def ping(self) -> None:
        """Raise StoreUnavailable unless the database answers and its tables are there."""
        self.database.read(_touch)

    def submit(self, jobs: Sequence[Job]) -> list[Submitted]:
        """Store jobs: all of them or none."""
        # a job that has just been made is not there yet; one with a key of its user's may well be
        tries = count(1 if any(job.idempotency_key is not None for job in jobs) else 0)

        def attempt() -> list[Submitted]:
            first = next(tries) == 0
            placed = self._place(jobs) if first and self.database.postgres else None
            if placed is not None:
                return placed
            with self.database.transaction() as tx:
                return submitting.submit(tx, jobs, look_first=not first)

        return self.database.retrying(attempt)

    def _place(self, jobs: Sequence[Job]) -> list[Submitted] | None:
        with self.database.single() as tx:
            return placing.place(tx, jobs)

    def request_cancel(self, job_id: str, tenant_id: str | None = None) -> JobStatus:
        """Cancel a job, or tell it to stop; the status after it."""
        return self.database.run(steering.request_cancel, job_id, tenant_id)

    def retry(self, job_id: str, tenant_id: str | None = None) -> None:
        """Open an ended job again."""
        self.database.run(steering.retry, job_id, tenant_id)

    def promotable(self, job_id: str, name: str) -> CheckpointRecord:
        """A checkpoint, if it can be kept for good."""
        return self.database.read(lambda tx: journal.promotable(tx, reading.seq_of(tx, job_id), name))

    def promote(self, job_id: str, name: str, tenant_id: str | None = None) -> CheckpointRecord:
        """Keep a checkpoint for good."""

        def operation(tx: Tx) -> CheckpointRecord:
            return journal.promote(tx, reading.seq_of(tx, job_id, tenant_id), name)

        return self.database.run(operation)

    def get(self, job_id: str, tenant_id: str | None = None) -> Job:
        """A job. Raises JobNotFound."""
        return self.database.read(reading.get, job_id, tenant_id)

    def list_jobs(
        self, wanted: JobFilter | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[Job]:
        """Jobs, the newest first, from the one after ``after`` on."""
        return self.database.read(reading.list_jobs, wanted or JobFilter(), limit=limit, after=after)

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """A job's log, from the entry after ``after`` on."""
        return self.database.read(reading.job_events, job_id, after=after, limit=limit)

    def events_all(self, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """All logs together."""
        return self.database.read(reading.all_events, after=after, limit=limit)

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """Who worked at a job."""
        return self.database.read(reading.job_attempts, job_id)

    def steps(self, job_id: str) -> list[StepRecord]:
        """The optimizer steps that count, in order."""
        return self.database.read(lambda tx: journal.job_steps(tx, reading.seq_of(tx, job_id)))

    def checkpoints(self, job_id: str) -> list[CheckpointRecord]:
        """All checkpoints, also those that are gone."""
        return self.database.read(lambda tx: journal.job_checkpoints(tx, reading.seq_of(tx, job_id)))

    def runs(self, job_id: str) -> list[RemoteRun]:
        """The lineage of remote runs."""
        return self.database.read(lambda tx: journal.job_runs(tx, reading.seq_of(tx, job_id)))

    def count_old(self, before: datetime) -> tuple[int, int]:
        """How many jobs ended before this, and how many of them have checkpoints at their service."""
        return self.database.read(pruning.count_old, before)

    def prune(self, before: datetime, *, forget_checkpoints: bool = False, limit: int = 500) -> int:
        """Forget up to ``limit`` jobs that ended before this."""
        return self.database.run(pruning.prune, before, limit=limit, forget_checkpoints=forget_checkpoints)

    def workers(self) -> list[WorkerRow]:
        """All workers ever entered, the newest first."""
        return self.database.read(workers.list_workers)

    def set_tenant_quota(self, tenant_id: str, max_running: int | None) -> LimitUse:
        """Limit how many jobs of a tenant run at once; None lifts it. Raises InvalidRequest."""
        return self.database.run(limits.set_limit, limits.tenant_quota(tenant_id, max_running))

    def set_model_limit(self, credential: str, max_running: int | None, *, model: str = "*") -> LimitUse:
        """Limit how many jobs run at once with a credential; None lifts it. Raises InvalidRequest."""
        return self.database.run(limits.set_limit, limits.model_limit(credential, max_running, model=model))

    def limits(self) -> list[Limit]:
        """The limits that are set."""
        return self.database.read(limits.shared_limits)

    def limits_in_use(self) -> list[LimitUse]:
        """The limits that are set, each with how many jobs run under it."""
        return self.database.read(limits.limits_in_use)


def _touch(tx: Tx) -> None:
    from nsai_work.store.schema import workers as table

    tx.connection.execute(table.select().limit(1)).all()
