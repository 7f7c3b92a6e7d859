"""The store for callers that may block: submit, cancel, retry and query, from any thread."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from pydantic import JsonValue
from sqlalchemy import URL

from nsai_work.clock import Clock, SystemClock
from nsai_work.job import Job
from nsai_work.journal import AnswerRow, CheckpointRecord, EvaluationRecord, RemoteRun, StepRecord
from nsai_work.journal.rollouts import RolloutRecord, StoredTurn
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads.reads import PinnedRead
from nsai_work.store.blobs.table import BlobStore
from nsai_work.store.claim import limits
from nsai_work.store.engine.database import Database, Tx
from nsai_work.store.engine.engines import parse_url
from nsai_work.store.engine.migrate import require_version
from nsai_work.store.journal import answers, checkpoints, evaluations, reads, runs, steps
from nsai_work.store.journal.reinforcement import rollouts
from nsai_work.store.lifecycle import cancel_retry
from nsai_work.store.maintenance import old_checkpoints, old_jobs, unused_blobs, workers
from nsai_work.store.maintenance.old_checkpoints import OldCheckpoint
from nsai_work.store.queries import goodput as goodput_queries
from nsai_work.store.queries import jobs as job_queries
from nsai_work.store.queries import progress, queue_state
from nsai_work.store.records import (
    AttemptRow,
    Claim,
    EventRow,
    JobFilter,
    Limit,
    LimitUse,
    QueueStatus,
    Submitted,
    TrainingProgress,
    WorkerRow,
    WorkerUse,
)
from nsai_work.store.submit import submit
from nsai_work.store.submit.general import IdempotencyKey, find_submitted, submitted_ids
from nsai_work.telemetry.goodput import Goodput


def open_store(url: str | URL, clock: Clock | None = None, *, migrate: bool = True) -> "Store":
    """A store at a database address. First use connects, and migrates the tables unless ``migrate`` is false.

    Its time is that of the database: PostgreSQL's server, or this process for SQLite. A ``clock`` replaces both.

    Raises:
        InvalidRequest: the address is malformed, or the database is not supported.
    """
    return Store(Database(parse_url(url), clock or SystemClock(), migrate, server_time=clock is None))


def migrate_store(url: str | URL) -> None:
    """Create or migrate the tables at a database address. Raises as ``Store``'s methods."""
    store = open_store(url, migrate=True)
    try:
        store.ping()
    finally:
        store.close()


class DatabaseState(NamedTuple):
    """The state of a database: the version of the tables, None without any, whether there is a pooler, and
    whether workers have a presence there."""

    version: str | None
    pooled: bool
    has_presence: bool


def database_state(url: str | URL) -> DatabaseState:
    """Look at a database address. Creates and migrates nothing.

    Raises as ``Store``'s methods.
    """
    from nsai_work.store.engine.migrate import current_version

    database = Database(parse_url(url), _ready=True)
    try:
        version = database.read(lambda tx: current_version(tx.connection))
        return DatabaseState(version, database.pooled, not database.postgres or database.has_sessions)
    finally:
        database.close()


@dataclass(frozen=True, slots=True)
class Store:
    """The store, with one transaction per method.

    All methods raise StoreUnavailable if the database does not answer, and StoreFull if there is no disk space;
    nothing is then written. The functions of the same names in this package's folders document further errors.
    """

    database: Database

    @property
    def sends_notifications(self) -> bool:
        """The database notifies workers of ready jobs."""
        return self.database.sends_notifications

    def close(self) -> None:
        """Close the connections. Later calls open new ones."""
        self.database.close()

    def ping(self) -> None:
        """Raise StoreUnavailable unless the database answers and has the tables."""
        self.database.read(_touch)

    def require_current(self) -> None:
        """Raise StoreUnavailable unless the database answers and its tables have the version of this code."""
        self.database.read(lambda tx: require_version(tx.connection))

    def now(self) -> datetime:
        """The time by which the store judges: of the database's server, if it has one."""
        return self.database.read(lambda tx: tx.now)

    @property
    def blobs(self) -> BlobStore:
        """The rows of blobs."""
        return BlobStore(self.database)

    def submit(self, jobs: Sequence[Job], named: Mapping[str, Sequence[str]] | None = None) -> list[Submitted]:
        """Store jobs: all of them or none. ``named`` are the keys of the blobs that they name, by job id. Raises
        BlobGone."""
        return submit(self.database, jobs, named or {})

    def find_submitted(self, jobs: Sequence[Job]) -> list[Submitted | None]:
        """The earlier submission of each job that has an idempotency key. Raises KeyReused."""
        return self.database.read(find_submitted, jobs)

    def request_cancel(self, job_id: str, tenant_id: str | None = None) -> JobStatus:
        """Cancel a waiting job, or request a running one to stop. Returns the status afterwards."""
        return self.database.run(cancel_retry.request_cancel, job_id, tenant_id)

    def retry(self, job_id: str, tenant_id: str | None = None) -> None:
        """Queue an ended job again."""
        self.database.run(cancel_retry.retry, job_id, tenant_id)

    def promotable(self, job_id: str, name: str) -> CheckpointRecord:
        """A checkpoint, if it can be promoted."""
        return self.database.read(lambda tx: checkpoints.promotable(tx, job_queries.seq_of(tx, job_id), name))

    def promote(self, job_id: str, name: str, tenant_id: str | None = None) -> CheckpointRecord:
        """Promote a checkpoint, which is then never deleted."""

        def operation(tx: Tx) -> CheckpointRecord:
            return checkpoints.promote(tx, job_queries.seq_of(tx, job_id, tenant_id), name)

        return self.database.run(operation)

    def keep_sampler_path(self, job_id: str, name: str, path: str) -> str:
        """Record sampling weights of a checkpoint that has none. Returns the path that it has now."""
        return self.database.run(
            lambda tx: checkpoints.keep_sampler_path(tx, job_queries.seq_of(tx, job_id), name, path)
        )

    def get(self, job_id: str, tenant_id: str | None = None) -> Job:
        """A job. Raises JobNotFound."""
        return self.database.read(job_queries.get, job_id, tenant_id)

    def list_jobs(
        self, conditions: JobFilter | None = None, *, limit: int = 100, after: str | None = None
    ) -> list[Job]:
        """A page of jobs, the newest first. ``after`` is the id of the last job on the previous page."""
        return self.database.read(job_queries.list_jobs, conditions or JobFilter(), limit=limit, after=after)

    def find(self, text: str) -> Job:
        """The job with this id, or the only one whose id starts or ends with it. Raises as ``job_queries.find``."""
        return self.database.read(job_queries.find, text)

    def progress(self, job_id: str) -> TrainingProgress | None:
        """The progress of a training job; None before its first step. Raises JobNotFound."""
        return self.database.read(progress.training_progress, job_id)

    def goodput(self, job_id: str) -> Goodput:
        """The wall time of a job by use. Raises JobNotFound."""
        return self.database.read(goodput_queries.goodput, job_id)

    def events(self, job_id: str, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """The events of a job with a seq above ``after``."""
        return self.database.read(job_queries.job_events, job_id, after=after, limit=limit)

    def events_all(self, after: int = 0, limit: int = 1000) -> list[EventRow]:
        """The events of all jobs with a seq above ``after``."""
        return self.database.read(job_queries.all_events, after=after, limit=limit)

    def attempts(self, job_id: str) -> list[AttemptRow]:
        """The attempts at a job, in order."""
        return self.database.read(job_queries.job_attempts, job_id)

    def steps(self, job_id: str) -> list[StepRecord]:
        """The optimizer steps of a job that are not superseded, in order."""
        return self.database.read(lambda tx: steps.job_steps(tx, job_queries.seq_of(tx, job_id)))

    def evaluations(self, job_id: str) -> list[EvaluationRecord]:
        """The evaluations of a training job that are not superseded, in order."""
        return self.database.read(lambda tx: evaluations.job_evaluations(tx, job_queries.seq_of(tx, job_id)))

    def rollouts(self, job_id: str, step: int | None = None, *, evaluated: bool = False) -> list[RolloutRecord]:
        """The rollouts of a job that have ended, or those of a step, the newest of each place, in order; with
        ``evaluated`` those of its evaluations."""
        return self.database.read(
            lambda tx: rollouts.newest_rollouts(tx, job_queries.seq_of(tx, job_id), step, evaluated=evaluated)
        )

    def rollout_turns(self, job_id: str, step: int, *, evaluated: bool = False) -> list[StoredTurn]:
        """The turns of the rollouts of a step, or of its evaluation, of all generations and attempts, in order."""
        return self.database.read(
            lambda tx: rollouts.job_turns(tx, job_queries.seq_of(tx, job_id), step, evaluated=evaluated)
        )

    def checkpoints(self, job_id: str) -> list[CheckpointRecord]:
        """All checkpoints of a job, deleted ones included."""
        return self.database.read(lambda tx: checkpoints.job_checkpoints(tx, job_queries.seq_of(tx, job_id)))

    def runs(self, job_id: str) -> list[RemoteRun]:
        """The remote runs of a job, in order of their generations."""
        return self.database.read(lambda tx: runs.job_runs(tx, job_queries.seq_of(tx, job_id)))

    def answers(self, job_id: str, after: int = 0, limit: int = 500) -> list[AnswerRow]:
        """Up to ``limit`` answers of an inference batch, those of the lines after ``after``, in order."""
        return self.database.read(lambda tx: answers.job_answers(tx, job_queries.seq_of(tx, job_id), after, limit))

    def pin_reads(self, claim: Claim, pinned: Mapping[str, PinnedRead]) -> None:
        """Pin what a claimed job has read of other jobs, by field. Raises LeaseLost."""
        self.database.run(reads.pin_reads, claim, pinned)

    def pinned_reads(self, job_id: str) -> dict[str, PinnedRead]:
        """The values that a job has read from other jobs, by field."""
        return self.database.read(lambda tx: reads.pinned_reads(tx, job_queries.seq_of(tx, job_id)))

    def submitted_ids(self, keys: Collection[IdempotencyKey]) -> dict[IdempotencyKey, str]:
        """The ids of the jobs with these idempotency keys, each with its tenant and namespace."""
        return self.database.read(submitted_ids, keys)

    def count_old(self, before: datetime) -> tuple[int, int]:
        """The number of jobs that ended before ``before``, and how many of them have checkpoints at their
        service."""
        return self.database.read(old_jobs.count_old, before)

    def prune(self, before: datetime, *, forget_checkpoints: bool = False, limit: int = 500) -> int:
        """Delete up to ``limit`` jobs that ended before ``before``, and the workers that were seen last before it.
        Returns the number of jobs."""

        def operation(tx: Tx) -> int:
            workers.forget_workers(tx, before)
            return old_jobs.prune(tx, before, limit=limit, forget_checkpoints=forget_checkpoints)

        return self.database.run(operation)

    def count_unused_blobs(self) -> int:
        """The number of blobs that no job names and that nobody has touched for a day."""
        return self.database.read(unused_blobs.count_unused)

    def begin_blob_deletion(self, untouched_for: timedelta = unused_blobs.UNTOUCHED_FOR) -> list[str]:
        """Mark some of these blobs as deleting, and return their keys. ``blobs.discard`` ends the deletion."""
        return self.database.run(unused_blobs.begin_deletion, untouched_for)

    def open_specs(self) -> list[tuple[str, JsonValue]]:
        """The ids and specs of all jobs that have not ended."""
        return self.database.read(old_checkpoints.open_specs)

    def old_checkpoints(self, before: datetime) -> list[OldCheckpoint]:
        """The checkpoints of jobs that ended before ``before``, without promoted ones."""
        return self.database.read(old_checkpoints.old_checkpoints, before)

    def begin_checkpoint_deletion(
        self, before: datetime, *, limit: int, keep: Collection[str] = frozenset()
    ) -> list[OldCheckpoint]:
        """Mark up to ``limit`` of these checkpoints as deleting, except those with a path in ``keep``, and return
        them."""
        return self.database.run(old_checkpoints.begin_deletion, before, limit=limit, keep=keep)

    def end_checkpoint_deletion(self, checkpoint: OldCheckpoint) -> None:
        """Record that a checkpoint no longer exists at its service. Idempotent."""
        self.database.run(old_checkpoints.end_deletion, checkpoint)

    def queue(self) -> QueueStatus:
        """The depth of the queue by priority, the limits with their use, and why jobs wait."""
        return self.database.read(queue_state.queue_state)

    def workers(self) -> list[WorkerRow]:
        """All workers that are registered, the newest first."""
        return self.database.read(workers.list_workers)

    def worker_uses(self) -> list[WorkerUse]:
        """All workers that are registered, the newest first, each with its load."""
        return self.database.read(workers.worker_uses)

    def set_tenant_quota(self, tenant_id: str, max_running: int | None) -> LimitUse:
        """Limit the running jobs of a tenant. None removes the limit. Raises InvalidRequest."""
        return self.database.run(limits.set_limit, limits.tenant_quota(tenant_id, max_running))

    def set_model_limit(self, credential: str, max_running: int | None, *, model: str = "*") -> LimitUse:
        """Limit the running jobs with a credential. None removes the limit. Raises InvalidRequest."""
        return self.database.run(limits.set_limit, limits.model_limit(credential, max_running, model=model))

    def limits(self) -> list[Limit]:
        """The limits that are set."""
        return self.database.read(limits.shared_limits)

    def limits_in_use(self) -> list[LimitUse]:
        """The limits that are set, each with the number of jobs that run under it."""
        return self.database.read(limits.limits_in_use)


def _touch(tx: Tx) -> None:
    from nsai_work.store.schema import workers as table

    tx.connection.execute(table.select().limit(1)).all()
