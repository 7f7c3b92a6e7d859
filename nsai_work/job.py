"""Job, the unit of work, with its priority, resources and constraints."""

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Self, TypeAlias

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    Field,
    JsonValue,
    ValidationError,
    field_validator,
    model_validator,
)

from crucible.errors import Failure
from crucible.record import Record
from crucible.recovery import RecoveryPolicy
from nsai_work.errors import InvalidJob
from nsai_work.identifiers import new_job_id
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind, Payload, parse_payload, without_callbacks
from nsai_work.policies import TEN_YEARS_S, RetryPolicy


def storable(text: str) -> str:
    """Check that every database can store a text, and return it.

    Raises:
        ValueError: it contains NUL or a lone surrogate.
    """
    if "\x00" in text or not _is_encodable(text):
        raise ValueError("must not contain NUL or a lone surrogate")
    return text


def _is_encodable(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


StorableText: TypeAlias = Annotated[str, AfterValidator(storable)]


class Priority(StrEnum):
    """Priority of a job, and the name of its queue. Jobs of higher priority are claimed first."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"
    OFFLINE = "offline"

    @property
    def rank(self) -> int:
        """The rank of the priority; 0 is the highest."""
        return list(Priority).index(self)


class Resources(Record):
    """Resources of a job. ``timeout_ms`` limits each attempt."""

    cpu: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    memory_mb: int | None = Field(default=None, gt=0, le=1_000_000_000)
    gpu: StorableText | None = Field(default=None, max_length=200)
    gpu_count: int | None = Field(default=None, ge=0, le=1_000_000)
    timeout_ms: int | None = Field(default=None, ge=1, le=TEN_YEARS_S * 1000)
    max_cost_usd: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Constraints(Record):
    """Constraints on where and when a job may run."""

    required_backends: tuple[StorableText, ...] = ()
    preferred_backends: tuple[StorableText, ...] = ()
    excluded_backends: tuple[StorableText, ...] = ()
    depends_on: tuple[StorableText, ...] = ()
    not_before: AwareDatetime | None = None
    deadline: AwareDatetime | None = None
    concurrency_group: StorableText | None = Field(default=None, min_length=1, max_length=200)
    max_concurrent_in_group: int | None = Field(default=None, ge=1, le=1_000_000)
    session_id: str | None = None
    locality: str | None = None

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

    id: StorableText = Field(default_factory=lambda: new_job_id(datetime.now(UTC)), min_length=1, max_length=64)
    kind: JobKind
    backend: StorableText = Field(default="tinkex", min_length=1, max_length=100)
    payload: dict[str, JsonValue]
    name: StorableText | None = Field(default=None, max_length=200)
    parent_id: StorableText | None = None
    priority: Priority = Priority.BATCH
    tenant_id: StorableText = Field(default="default", min_length=1, max_length=200)
    namespace: StorableText = Field(default="default", min_length=1, max_length=200)
    owner: StorableText | None = Field(default=None, max_length=200)
    tags: tuple[StorableText, ...] = ()
    resources: Resources = Resources()
    constraints: Constraints = Constraints()
    retry_policy: RetryPolicy = RetryPolicy()
    idempotency_key: StorableText | None = Field(default=None, min_length=1, max_length=200)
    trace_id: str | None = None
    span_id: str | None = None
    metadata: dict[str, JsonValue] = Field(default_factory=dict)

    status: JobStatus = JobStatus.PENDING
    wait_reason: str | None = None
    attempt: int = Field(default=0, ge=0)
    fence: int = Field(default=0, ge=0)
    created_at: AwareDatetime | None = None
    queued_at: AwareDatetime | None = None
    run_at: AwareDatetime | None = None
    started_at: AwareDatetime | None = None
    completed_at: AwareDatetime | None = None
    cancel_requested_at: AwareDatetime | None = None
    worker_id: str | None = None
    result: dict[str, JsonValue] | None = None
    error: Failure | None = None

    @field_validator("payload", mode="before")
    @classmethod
    def _plain(cls, value: Any) -> Any:
        return _to_json(value)

    @model_validator(mode="after")
    def _normalised(self) -> Self:
        # write defaults out, so that a stored job does not change with the defaults of a later version
        _require_encodable(self.payload, "payload")
        _require_encodable(self.metadata, "metadata")
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
            raise InvalidJob.from_validation(error) from None


def _require_encodable(value: object, field: str) -> None:
    """Raise InvalidJob for the first lone surrogate: it cannot be encoded for a service or a terminal."""
    if isinstance(value, str):
        if not _is_encodable(value):
            raise InvalidJob(f"{field}: must not contain a lone surrogate (got {value!a:.80})")
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_encodable(key, field)
            _require_encodable(item, f"{field}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_encodable(item, f"{field}.{index}")


def _to_json(value: Any) -> Any:
    if isinstance(value, RecoveryPolicy):
        # what it does not set is the job's own default, not the class's
        return without_callbacks(value).model_dump(mode="json", exclude_unset=True)
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return value
