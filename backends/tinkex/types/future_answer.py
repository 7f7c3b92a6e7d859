"""Responses of ``retrieve_future`` other than a result."""

from enum import StrEnum
from typing import Annotated

from pydantic import AfterValidator, Field, field_validator

from backends.tinkex.types.wire_record import ReadRecord
from crucible.http.redaction import redacted


class QueueState(StrEnum):
    """The reason why a request waits."""

    ACTIVE = "active"
    PAUSED_CAPACITY = "paused_capacity"
    PAUSED_RATE_LIMIT = "paused_rate_limit"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> "QueueState":
        return cls.UNKNOWN


class TryAgainResponse(ReadRecord):
    """The request is pending; poll again."""

    request_id: str | None = None
    queue_state: QueueState = QueueState.UNKNOWN
    queue_state_reason: Annotated[str, AfterValidator(redacted)] | None = None


class RequestErrorCategory(StrEnum):
    """The side that caused a failure, according to the server."""

    UNKNOWN = "unknown"
    SERVER = "server"
    USER = "user"
    # the names of the Tinker SDK
    Unknown = UNKNOWN
    Server = SERVER
    User = USER

    @classmethod
    def _missing_(cls, value: object) -> "RequestErrorCategory":
        return cls.UNKNOWN


class RequestFailedResponse(ReadRecord):
    """The request failed permanently."""

    error: str = "the server gave no reason"
    category: RequestErrorCategory = RequestErrorCategory.UNKNOWN

    @field_validator("category", mode="before")
    @classmethod
    def _any_case(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value


class CompleteMetadata(ReadRecord):
    """The result is ready but large; poll again without ``allow_metadata_only``."""

    status: str = "complete_metadata"
    response_payload_size: int | None = Field(default=None, ge=0)
