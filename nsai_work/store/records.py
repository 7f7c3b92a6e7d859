"""Plain records that the store accepts and returns, besides jobs. Nothing here needs a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final, Literal, TypeAlias

from pydantic import Field, JsonValue

from crucible.errors import Failure
from crucible.values.record import Record
from crucible.values.scalars import Name
from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind


@dataclass(frozen=True, slots=True)
class Submitted:
    """The result of a submission. If a job with the same idempotency key, or with the same id and content, existed
    already, ``created`` is false and the fields describe that job."""

    job_id: str
    fence: int
    status: JobStatus
    priority: Priority
    created: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of a job under a fencing token, which every write of the owner carries.

    ``backend`` was chosen among the backends that the job allows; ``credential`` names the account whose limits
    count the job. ``remaining_s`` is the time to the job's deadline at the claim, by the database's clock.
    """

    job: Job
    seq: int
    fence: int
    attempt: int
    worker_id: str
    backend: str
    credential: str
    remaining_s: float | None = None

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id


@dataclass(frozen=True, slots=True)
class Selection:
    """The jobs that a worker may claim. ``None`` means any.

    ``backends`` pairs each backend that the worker supports with the name of its credential there, which is the key
    of the shared limits. ``excluded`` are the seqs of jobs to leave to other workers.
    """

    priorities: tuple[Priority, ...] | None = None
    kinds: tuple[JobKind, ...] | None = None
    backends: tuple[tuple[str, str], ...] | None = None
    job_ids: tuple[str, ...] | None = None
    excluded: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's request for up to ``limit`` jobs of a selection, each under a lease of ``lease_ttl_s`` seconds
    and, if the worker has a presence, with a grace of ``grace_s``."""

    worker_id: str
    limit: int
    lease_ttl_s: float
    selection: Selection = Selection()
    grace_s: float | None = None


class OutcomeKind(StrEnum):
    """The kind of an attempt's end: one of the four final states of a job, or back to the queue.

    ``retried`` uses up one of the job's attempts; ``released`` (a pause, a hand-over) does not, nor does
    ``declined`` (this worker cannot run the job, another may); ``lost`` is recorded by another worker when the
    lease has expired.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    RETRIED = "retried"
    RELEASED = "released"
    DECLINED = "declined"
    LOST = "lost"

    @property
    def status(self) -> JobStatus:
        """The job's status after such an attempt."""
        return JobStatus.QUEUED if self in _REQUEUED else JobStatus(self.value)


UNCOUNTED: Final = frozenset({OutcomeKind.RELEASED, OutcomeKind.DECLINED})
"""The outcomes of a requeued job that use up none of its attempts."""

_REQUEUED: Final = UNCOUNTED | {OutcomeKind.RETRIED, OutcomeKind.LOST}


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of an attempt: its kind, with the result or the failure.

    ``reason`` and ``delay_s`` (seconds from now) apply to a job that goes back to the queue.
    """

    kind: OutcomeKind
    result: Mapping[str, JsonValue] | None = None
    failure: Failure | None = None
    reason: str = ""
    delay_s: float = 0.0

    @classmethod
    def succeeded(cls, result: Mapping[str, JsonValue] | None = None) -> "Outcome":
        """The job is done."""
        return cls(OutcomeKind.SUCCEEDED, result=result)

    @classmethod
    def failed(cls, failure: Failure | None = None, reason: str = "") -> "Outcome":
        """The job has failed for good."""
        return cls(OutcomeKind.FAILED, failure=failure, reason=reason)

    @classmethod
    def canceled(cls, failure: Failure) -> "Outcome":
        """The job was canceled by request."""
        return cls(OutcomeKind.CANCELED, failure=failure)

    @classmethod
    def timeout(cls, failure: Failure) -> "Outcome":
        """The job's time limit or deadline has passed."""
        return cls(OutcomeKind.TIMEOUT, failure=failure)

    @classmethod
    def retried(cls, reason: str, *, delay_s: float = 0.0, failure: Failure | None = None) -> "Outcome":
        """The attempt failed; the job is queued for the next one."""
        return cls(OutcomeKind.RETRIED, failure=failure, reason=reason, delay_s=delay_s)

    @classmethod
    def released(cls, reason: str, *, delay_s: float = 0.0, failure: Failure | None = None) -> "Outcome":
        """The job goes back to the queue as it is, and the attempt is not used up."""
        return cls(OutcomeKind.RELEASED, failure=failure, reason=reason, delay_s=delay_s)

    @classmethod
    def declined(cls, failure: Failure) -> "Outcome":
        """This worker cannot run the job; it goes back to the queue for another, and no attempt is used up."""
        return cls(OutcomeKind.DECLINED, failure=failure, reason=f"declined: {failure.message}")


@dataclass(frozen=True, slots=True)
class Lease:
    """The lease of a running job, as an observer sees it. Each heartbeat of the owner increments ``beat``.

    ``grace_s`` is how long the owner may be absent before others take the job; None if it has no presence.
    """

    seq: int
    job_id: str
    fence: int
    beat: int
    ttl_s: float
    worker_id: str
    grace_s: float | None = None


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """The result of a heartbeat, by job id. The worker must stop jobs in ``lost`` at once and write nothing."""

    held: frozenset[str]
    lost: frozenset[str]
    cancel_requested: frozenset[str]


@dataclass(frozen=True, slots=True)
class Absence:
    """The workers that had no presence when an observer looked. ``session_began_at`` is the monotonic time since
    which that observer has been connected without a break; None without a connection that could break."""

    worker_ids: frozenset[str]
    session_began_at: float | None


@dataclass(frozen=True, slots=True)
class Leadership:
    """The result of a campaign: whether this worker leads, and whether any job runs or waits."""

    leads: bool
    any_open: bool


@dataclass(frozen=True, slots=True)
class EventRow:
    """An entry of a job's event log. Within a job, ``seq`` increases in the order of the events."""

    seq: int
    job_id: str
    at: datetime
    name: str
    data: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class NotedEvent:
    """An event with what an alert says of its job. ``seq`` is the event's number, ``job_seq`` the job's."""

    seq: int
    job_seq: int
    at: datetime
    event: str
    data: dict[str, JsonValue]
    job_id: str
    name: str | None
    job_kind: str
    backend: str
    tenant_id: str
    status: str


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """An attempt at a job. ``outcome`` is None while it runs."""

    fence: int
    attempt: int
    worker_id: str
    backend: str
    started_at: datetime
    ended_at: datetime | None
    outcome: str | None
    failure: Failure | None


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The conditions of a list of jobs; ``None`` means any."""

    status: JobStatus | None = None
    kind: JobKind | None = None
    backend: str | None = None
    tenant_id: str | None = None
    namespace: str | None = None
    parent_id: str | None = None
    priority: Priority | None = None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Limit:
    """A limit on the running jobs of a tenant, or of a credential and a model (``*``: all models together)."""

    scope: str
    key: str
    model: str
    max_running: int | None


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit and the number of jobs that run under it. That may exceed the limit, which stops no running job."""

    limit: Limit
    running: int


@dataclass(frozen=True, slots=True)
class TrainingProgress:
    """The progress of a training job: its newest step with the loss, the speed over the last steps (None after
    the first one), how its newest remote run began, and the mean reward of the step if it has one."""

    step: int
    loss: float
    steps_per_s: float | None
    tokens_per_s: float | None
    resume: str | None
    reward: float | None = None


@dataclass(frozen=True, slots=True)
class JobCount:
    """The number of jobs with a status, a kind and a backend."""

    status: str
    kind: str
    backend: str
    number: int


@dataclass(frozen=True, slots=True)
class QueueCount:
    """The waiting jobs of a priority. ``later`` counts those that are not due: they wait for a time or another job.
    ``oldest_age_s`` is how long the oldest of the ready ones has been ready, in seconds; 0 if there is none."""

    priority: Priority
    ready: int
    later: int
    oldest_age_s: float


@dataclass(frozen=True, slots=True)
class WaitCount:
    """A reason why jobs wait, and their number."""

    reason: str
    jobs: int


@dataclass(frozen=True, slots=True)
class QueueStatus:
    """The queue at one moment: depths by priority, limits with their use, and waits by reason."""

    depths: list[QueueCount]
    limits: list[LimitUse]
    waits: list[WaitCount]


WorkerState: TypeAlias = Literal["alive", "absent", "stopped", "gone"]
"""The state of a worker: ``absent`` without its presence, ``gone`` once it has been silent for some intervals."""


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process, as it registered itself.

    ``backends`` maps each backend that it could use at its start to the name of its account there, and ``declined``
    each backend that it cannot use now to the reason. ``priorities`` and ``job_ids`` are the jobs that it works on,
    None for any. It is seen every ``seen_every_ms``. If it ``has_presence``, its death is noticed at once.
    """

    id: str
    host: str
    pid: int
    version: str
    backends: dict[str, str]
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None
    declined: dict[str, str] | None = None
    priorities: list[str] | None = None
    seen_every_ms: int | None = None
    job_ids: list[str] | None = None
    has_presence: bool | None = None


@dataclass(frozen=True, slots=True)
class WorkerUse:
    """A worker, its state, and the number of jobs that it runs."""

    worker: WorkerRow
    state: WorkerState
    running: int

    @property
    def ended(self) -> bool:
        """It has stopped or is gone. An absent one may yet come back, if only its connection has ended."""
        return self.state in ("stopped", "gone")


@dataclass(frozen=True, slots=True)
class DueJobs:
    """The jobs that ``release_due`` moved, by id."""

    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)


class WakeUp(Record):
    """A wake-up: the job is ready, and a worker may claim it. It may be lost, doubled, late or stale without harm.

    ``fence`` is the job's fencing token when the wake-up was made; ``traceparent`` is the submitter's W3C trace
    context.
    """

    job_id: Name = Field(min_length=1, max_length=64)
    fence: int = Field(ge=0, lt=2**53)
    priority: Priority
    traceparent: Name | None = Field(default=None, max_length=100)
