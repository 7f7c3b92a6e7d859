"""What the store takes and gives, beside jobs. Nothing here needs a database."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import Field, JsonValue

from crucible.errors import Failure
from crucible.record import Record
from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of a submitted job. ``created`` is false when its idempotency key, or its very id with the same
    content, was there before: then this is the job that was there."""

    job_id: str
    fence: int
    status: JobStatus
    priority: Priority
    created: bool


@dataclass(frozen=True, slots=True)
class Claim:
    """Ownership of a job under a fencing token, which every write of the owner carries. ``backend`` is the one
    chosen of those the job allows; ``credential`` names the account whose limits count it."""

    job: Job
    seq: int
    fence: int
    attempt: int
    worker_id: str
    backend: str
    credential: str

    @property
    def job_id(self) -> str:
        """The job's id."""
        return self.job.id


@dataclass(frozen=True, slots=True)
class Selection:
    """Which jobs a worker takes. ``None`` means any.

    ``backends`` pairs each backend the worker can use with the name of the credential it uses there, which is the
    key of the shared limits.
    """

    priorities: tuple[Priority, ...] | None = None
    kinds: tuple[JobKind, ...] | None = None
    backends: tuple[tuple[str, str], ...] | None = None
    job_ids: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class ClaimRequest:
    """A worker's request for up to ``limit`` jobs of a selection, each under a lease of ``lease_ttl_s`` seconds."""

    worker_id: str
    limit: int
    lease_ttl_s: float
    selection: Selection = Selection()


class OutcomeKind(StrEnum):
    """How an attempt ended: the four final states of a job, or back to the queue.

    ``retried`` uses up one of the job's attempts; ``released`` (a pause, a hand-over) does not; ``lost`` is
    recorded by another worker when the lease has expired.
    """

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELED = "canceled"
    TIMEOUT = "timeout"
    RETRIED = "retried"
    RELEASED = "released"
    LOST = "lost"

    @property
    def status(self) -> JobStatus:
        """The job's status after such an attempt."""
        return JobStatus.QUEUED if self in _REQUEUED else JobStatus(self.value)


_REQUEUED: Final = frozenset({OutcomeKind.RETRIED, OutcomeKind.RELEASED, OutcomeKind.LOST})


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended: its kind, with the result or the failure.

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


@dataclass(frozen=True, slots=True)
class Lease:
    """A running job as an observer sees it. ``beat`` changes with every heartbeat of the owner."""

    seq: int
    job_id: str
    fence: int
    beat: int
    ttl_s: float
    worker_id: str


@dataclass(frozen=True, slots=True)
class LeaseReport:
    """The answer to a heartbeat, by job id. ``lost``: stop at once and write nothing."""

    held: frozenset[str]
    lost: frozenset[str]
    cancel_requested: frozenset[str]


@dataclass(frozen=True, slots=True)
class EventRow:
    """One entry of a job's log. ``seq`` rises within a job in the order in which things happened."""

    seq: int
    job_id: str
    at: datetime
    name: str
    data: dict[str, JsonValue]


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """Who worked at a job, when, and what came of it (``outcome`` is None while it runs)."""

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
    """Which jobs a list shows; ``None`` means any."""

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
    """At most ``max_running`` jobs at once for a tenant, or for a credential and a model (``*``: any)."""

    scope: str
    key: str
    model: str
    max_running: int | None


@dataclass(frozen=True, slots=True)
class LimitUse:
    """A limit, and how many jobs run under it now. It may be more than it allows: a limit stops no running job."""

    limit: Limit
    running: int


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A worker process as it described itself."""

    id: str
    host: str
    pid: int
    version: str
    backends: dict[str, str]
    started_at: datetime
    seen_at: datetime
    stopped_at: datetime | None


@dataclass(frozen=True, slots=True)
class DueJobs:
    """What a sweep moved, by job id."""

    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)


class WakeUp(Record):
    """A wake-up: the job is ready, and a worker may claim it. It may be lost, doubled, late or stale without harm.

    ``fence`` is the job's fencing token when the wake-up was made; ``traceparent`` is the submitter's W3C trace
    context.
    """

    job_id: str = Field(min_length=1, max_length=64)
    fence: int = Field(ge=0, lt=2**53)
    priority: Priority
    traceparent: str | None = Field(default=None, max_length=100)
