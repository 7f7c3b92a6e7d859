"""Job, the unit of work, with its priority, resources and constraints."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, Field, JsonValue, SkipValidation, ValidationError, field_validator, model_validator

from crucible.errors import Failure
from crucible.recovery import RecoveryPolicy
from crucible.values.json_types import MAX_JSON_DEPTH, FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Count, Instant, Name, Real, Text, Whole
from nsai_work.errors import InvalidJob
from nsai_work.identifiers import new_job_id
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind, JobKindName, Payload, parse_payload, without_callbacks
from nsai_work.policies import TEN_YEARS_S, RetryPolicy

PriorityName: TypeAlias = Literal["realtime", "interactive", "batch", "offline"]
STATE_FIELDS: Final = frozenset({
    "status", "wait_reason", "attempt", "fence", "created_at", "queued_at", "run_at", "started_at", "completed_at",
    "cancel_requested_at", "worker_id", "result", "error",
})  # fmt: skip
"""The fields of a job that the store sets. The other fields are the user's, and immutable."""

MAX_TRACESTATE: Final = 512
MAX_BAGGAGE: Final = 8192
"""Characters of the W3C headers that a job keeps; both are the limits of their specifications."""

NOT_ENFORCED: Final = (
    "resources.cpu", "resources.memory_mb", "resources.gpu", "resources.gpu_count", "resources.max_cost_usd",
    "constraints.session_id", "constraints.locality",
)  # fmt: skip
"""Fields that nothing honours yet. A job that sets one is refused at submit."""


_NUMBER: Final = re.compile(r"[-+]?[0-9.]+")


class Priority(StrEnum):
    """Priority of a job, and the name of its queue. Jobs of higher priority are claimed first."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"
    OFFLINE = "offline"

    @property
    def rank(self) -> int:
        """The rank of the priority; 0 is the highest."""
        return _RANKS[self]


_RANKS: Final = {priority: rank for rank, priority in enumerate(Priority)}


class Resources(Record):
    """Resources of a job. ``timeout_ms`` limits each attempt."""

    cpu: Real | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    memory_mb: Whole | None = Field(default=None, gt=0, le=1_000_000_000)
    gpu: Name | None = Field(default=None, max_length=200)
    gpu_count: Whole | None = Field(default=None, ge=0, le=1_000_000)
    timeout_ms: Whole | None = Field(default=None, ge=1, le=TEN_YEARS_S * 1000)
    max_cost_usd: Real | None = Field(default=None, ge=0, allow_inf_nan=False)


class Constraints(Record):
    """Constraints on where and when a job may run."""

    required_backends: tuple[Name, ...] = ()
    preferred_backends: tuple[Name, ...] = ()
    excluded_backends: tuple[Name, ...] = ()
    depends_on: tuple[Name, ...] = ()
    not_before: Instant | None = None
    deadline: Instant | None = None
    concurrency_group: Name | None = Field(default=None, min_length=1, max_length=200)
    max_concurrent_in_group: Whole | None = Field(default=None, ge=1, le=1_000_000)
    session_id: Name | None = None
    locality: Name | None = None

    @field_validator("not_before", "deadline", mode="before")
    @classmethod
    def _written_out(cls, value: Any) -> Any:
        # a number could be seconds or milliseconds, and since when: one would be guessed
        if isinstance(value, int | float) or (isinstance(value, str) and _NUMBER.fullmatch(value.strip())):
            raise ValueError("must be a time with its zone, such as 2026-01-31T12:00:00Z")
        return value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.concurrency_group is None) != (self.max_concurrent_in_group is None):
            raise ValueError("concurrency_group and max_concurrent_in_group must be set together")
        both = set(self.required_backends) & set(self.excluded_backends)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both required and excluded")
        if self.not_before and self.deadline and self.deadline <= self.not_before:
            raise ValueError("deadline must be after not_before")
        return self


class Job(Record):
    """A durable piece of work.

    Users set ``kind``, ``backend``, ``payload`` and any other field up to ``metadata``; the store sets the rest.
    ``attempt`` counts the claims that used up an attempt; ``fence`` is the fencing token of the newest claim.
    """

    id: Name = Field(default_factory=lambda: new_job_id(datetime.now(UTC)), min_length=1, max_length=64)
    kind: JobKind
    backend: Name = Field(default="tinkex", min_length=1, max_length=100)
    # what it holds is checked as the payload of its kind
    payload: dict[str, Annotated[JsonValue, SkipValidation]]
    name: Name | None = Field(default=None, max_length=200)
    parent_id: Name | None = None
    priority: Priority = Priority.BATCH
    tenant_id: Name = Field(default="default", min_length=1, max_length=200)
    namespace: Name = Field(default="default", min_length=1, max_length=200)
    owner: Name | None = Field(default=None, max_length=200)
    tags: tuple[Annotated[Name, Field(min_length=1, max_length=200)], ...] = ()
    resources: Resources = Resources()
    constraints: Constraints = Constraints()
    retry_policy: RetryPolicy = RetryPolicy()
    idempotency_key: Name | None = Field(default=None, min_length=1, max_length=200)
    trace_id: Name | None = None
    span_id: Name | None = None
    trace_flags: Whole | None = Field(default=None, ge=0, le=255)
    tracestate: Name | None = Field(default=None, max_length=MAX_TRACESTATE)
    baggage: Name | None = Field(default=None, max_length=MAX_BAGGAGE)
    metadata: FiniteObject = Field(default_factory=dict)

    status: JobStatus = JobStatus.PENDING
    wait_reason: Text | None = None
    attempt: Count = 0
    fence: Count = 0
    created_at: Instant | None = None
    queued_at: Instant | None = None
    run_at: Instant | None = None
    started_at: Instant | None = None
    completed_at: Instant | None = None
    cancel_requested_at: Instant | None = None
    worker_id: Name | None = None
    result: FiniteObject | None = None
    error: Failure | None = None

    if TYPE_CHECKING:
        # for type checkers: what the validators take, where they take more than the field holds
        def __init__(
            self,
            *,
            kind: JobKind | JobKindName,
            payload: Mapping[str, object],
            backend: str = ...,
            name: str | None = ...,
            parent_id: str | None = ...,
            priority: Priority | PriorityName = ...,
            tenant_id: str = ...,
            namespace: str = ...,
            owner: str | None = ...,
            tags: Sequence[str] = ...,
            resources: Resources | Mapping[str, object] = ...,
            constraints: Constraints | Mapping[str, object] = ...,
            retry_policy: RetryPolicy | Mapping[str, object] = ...,
            idempotency_key: str | None = ...,
            trace_id: str | None = ...,
            span_id: str | None = ...,
            trace_flags: int | None = ...,
            tracestate: str | None = ...,
            baggage: str | None = ...,
            metadata: Mapping[str, object] = ...,
            **stored: Any,
        ) -> None: ...

    @field_validator("payload", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return _to_json(value)

    @model_validator(mode="after")
    def _normalised(self) -> Self:
        # write defaults out, so that a stored job does not change with the defaults of a later version
        normal = self.parsed_payload.model_dump(mode="json")
        if normal != self.payload:
            object.__setattr__(self, "payload", normal)
        return self

    @property
    def parsed_payload(self) -> Payload:
        """The payload, parsed as the type of the job's kind."""
        return parse_payload(self.kind, self.payload)

    @classmethod
    def parse(cls, data: object) -> Self:
        """Parse a job from the data of a file or message.

        Raises:
            InvalidJob: fields are invalid; the error names all of them.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidJob.from_validation(error, cls, hidden=STATE_FIELDS) from None


def _to_json(value: Any, depth: int = 1) -> Any:
    if depth > MAX_JSON_DEPTH:
        raise ValueError(f"is nested deeper than {MAX_JSON_DEPTH} levels")
    if isinstance(value, RecoveryPolicy):
        # what it does not set is the job's own default, not the class's
        return without_callbacks(value).model_dump(mode="json", exclude_unset=True)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _to_json(item, depth + 1) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item, depth + 1) for item in value]
    return value
