"""Requests and responses about sessions."""

from typing import Any

from pydantic import Field, model_validator

from backends.tinkex.types.cursor import Cursor
from backends.tinkex.types.wire_record import ReadRecord, SentRecord, Timestamp


class CreateSessionRequest(SentRecord):
    """Create a session. ``user_metadata`` is sent even when empty, since some servers require it."""

    tags: list[str] = Field(default_factory=list)
    user_metadata: dict[str, str] = Field(default_factory=dict)
    sdk_version: str
    project_id: str | None = None
    display_name: str | None = None
    type: str = "create_session"


class CreateSessionResponse(ReadRecord):
    """A created session, with messages of the service for its user."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None


class GetSessionResponse(ReadRecord):
    """The training runs and samplers of a session."""

    training_run_ids: list[str] = Field(default_factory=list)
    sampler_ids: list[str] = Field(default_factory=list)
    user_metadata: dict[str, str] | None = None
    display_name: str | None = None


class SessionInfo(ReadRecord):
    """A session in a list. Many servers return only its id."""

    session_id: str = ""
    created_at: Timestamp | None = None
    user_metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"session_id": value} if isinstance(value, str) else value


class ListSessionsResponse(ReadRecord):
    """A page of sessions."""

    sessions: list[SessionInfo] = Field(default_factory=list)
    cursor: Cursor | None = None
