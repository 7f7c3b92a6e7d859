"""What the store takes and gives, beside jobs. Nothing here needs a database."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum

from pydantic import JsonValue

from crucible.errors import Failure
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
    """Ownership of a job under one fence, which fences every write of the owner. ``backend`` is the one chosen
    of those the job allows; ``credential`` names the account whose limits count it."""

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
class Wanted:
    """What a worker would take. ``None`` means any.

    ``backends`` maps each backend the worker can use to the name of the credential it uses there (which is the
    key of the shared limits).
    """

    worker_id: str
    limit: int
    lease_ttl_s: float
    job_ids: Sequence[str] | None = None
    kinds: Sequence[JobKind] | None = None
    priorities: Sequence[Priority] | None = None
    backends: dict[str, str] | None = None


@dataclass(frozen=True, slots=True)
class End:
    """How an owner ends its job: ``status`` is one of the four ends."""

    claim: Claim
    status: JobStatus
    result: dict[str, JsonValue] | None = None
    error: Failure | None = None


@dataclass(frozen=True, slots=True)
class Requeue:
    """How an owner gives a running job back. ``delay_s`` is measured from now.

    ``counts`` is false for what is no failed attempt (a pause, a hand-over): the attempt is not used up.
    """

    claim: Claim
    reason: str
    delay_s: float = 0.0
    failure: Failure | None = None
    counts: bool = True


class Outcome(StrEnum):
    """How an attempt ended, beside the four ends of a job."""

    RETRIED = "retried"
    RELEASED = "released"
    LOST = "lost"


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
class Released:
    """What a sweep moved, by job id."""

    queued: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    timed_out: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Hint:
    """A wake-up to publish: the job is ready and nobody has taken it."""

    job_id: str
    fence: int
    priority: Priority
