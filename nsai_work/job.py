"""Job: the unit of work, its priority, resources and constraints."""

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
from nsai_work.errors import InvalidJob
from nsai_work.identifiers import new_job_id
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind, Payload, parse_payload
from nsai_work.policies import TEN_YEARS_S, RetryPolicy


def storable(text: str) -> str:
    """The text itself, if every database can keep it: none takes NUL, and lone surrogates are no characters."""
    if "\x00" in text or not _has_only_characters(text):
        raise ValueError("must not contain NUL or a lone surrogate")
    return text


def _has_only_characters(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


Word: TypeAlias = Annotated[str, AfterValidator(storable)]


class Priority(StrEnum):
    """Which queue a job waits in; a claim takes from the most urgent first."""

    REALTIME = "realtime"
    INTERACTIVE = "interactive"
    BATCH = "batch"
    OFFLINE = "offline"

    @property
    def rank(self) -> int:
        """0 is the most urgent."""
        return list(Priority).index(self)


class Resources(Record):
    """What a job needs. ``timeout_ms`` limits one attempt."""

    cpu: float | None = Field(default=None, gt=0, le=1_000_000, allow_inf_nan=False)
    memory_mb: int | None = Field(default=None, gt=0, le=1_000_000_000)
    gpu: Word | None = Field(default=None, max_length=200)
    gpu_count: int | None = Field(default=None, ge=0, le=1_000_000)
    timeout_ms: int | None = Field(default=None, ge=1, le=TEN_YEARS_S * 1000)
    max_cost_usd: float | None = Field(default=None, ge=0, allow_inf_nan=False)


class Constraints(Record):
    """Where and when a job may run."""

    required_backends: tuple[Word, ...] = ()
    preferred_backends: tuple[Word, ...] = ()
    excluded_backends: tuple[Word, ...] = ()
    depends_on: tuple[Word, ...] = ()
    not_before: AwareDatetime | None = None
    deadline: AwareDatetime | None = None
    concurrency_group: Word | None = Field(default=None, min_length=1, max_length=200)
    max_concurrent_in_group: int | None = Field(default=None, ge=1, le=1_000_000)
    session_id: str | None = None
    locality: str | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.concurrency_group is None) != (self.max_concurrent_in_group is None):
            raise ValueError("concurrency_group and max_concurrent_in_group go together")
        both = set(self.required_backends) & set(self.excluded_backends)
        if both:
            raise ValueError(f"{', '.join(sorted(both))} is both required and excluded")
        if self.not_before and self.deadline and self.deadline <= self.not_before:
            raise ValueError("deadline must be after not_before")
        return self


class Job(Record):
    """A durable piece of work.

    Users fill in ``kind``, ``backend`` and ``payload`` and what they care for of the rest; the store fills in
    what follows ``metadata``. ``attempt`` counts claims, ``fence`` is the fencing token of the newest one.
    """

    id: Word = Field(default_factory=lambda: new_job_id(datetime.now(UTC)), min_length=1, max_length=64)
    kind: JobKind
    backend: Word = Field(default="tinkex", min_length=1, max_length=100)
    payload: dict[str, JsonValue]
    name: Word | None = Field(default=None, max_length=200)
    parent_id: Word | None = None
    priority: Priority = Priority.BATCH
    tenant_id: Word = Field(default="default", min_length=1, max_length=200)
    namespace: Word = Field(default="default", min_length=1, max_length=200)
    owner: Word | None = Field(default=None, max_length=200)
    tags: tuple[Word, ...] = ()
    resources: Resources = Resources()
    constraints: Constraints = Constraints()
    retry_policy: RetryPolicy = RetryPolicy()
    idempotency_key: Word | None = Field(default=None, min_length=1, max_length=200)
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
        # defaults are written out, so that a later version's defaults do not change a job that is stored
        _require_characters(self.payload, "payload")
        _require_characters(self.metadata, "metadata")
        normal = self.parsed_payload.model_dump(mode="json")
        if normal != self.payload:
            object.__setattr__(self, "payload", normal)
        return self

    @property
    def parsed_payload(self) -> Payload:
        """The payload as its kind's type."""
        return parse_payload(self.kind, self.payload)

    @classmethod
    def parse(cls, data: object) -> Self:
        """A job from what a file or a message held.

        Raises:
            InvalidJob: naming every wrong field.
        """
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise InvalidJob.from_validation(error) from None


def _require_characters(value: object, place: str) -> None:
    """Raise InvalidJob for the first lone surrogate: neither a service nor a terminal could be told it."""
    if isinstance(value, str):
        if not _has_only_characters(value):
            raise InvalidJob(f"{place}: must not contain a lone surrogate (got {value!a:.80})")
    elif isinstance(value, dict):
        for key, item in value.items():
            _require_characters(key, place)
            _require_characters(item, f"{place}.{key}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            _require_characters(item, f"{place}.{index}")


def _to_json(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, dict):
        return {key: _to_json(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_to_json(item) for item in value]
    return value
