"""Sessions: what a server says of them."""

from typing import Any

from pydantic import Field, model_validator

from backends.tinkex.types.cursor import Cursor
from backends.tinkex.types.wire_record import ReadRecord, SentRecord, Timestamp


class CreateSessionRequest(SentRecord):
    """Ask for a session. Some servers insist on ``user_metadata``, so it is sent even when empty."""

    tags: list[str] = Field(default_factory=list)
    user_metadata: dict[str, str] = Field(default_factory=dict)
    sdk_version: str
    project_id: str | None = None
    type: str = "create_session"


class CreateSessionResponse(ReadRecord):
    """A new session, and what the service wants its user to read."""

    session_id: str
    info_message: str | None = None
    warning_message: str | None = None
    error_message: str | None = None


class GetSessionResponse(ReadRecord):
    """What was made in a session."""

    training_run_ids: list[str] = Field(default_factory=list)
    sampler_ids: list[str] = Field(default_factory=list)
    user_metadata: dict[str, str] | None = None


class SessionInfo(ReadRecord):
    """One session in a list; many servers give its id only."""

    session_id: str = ""
    created_at: Timestamp | None = None
    user_metadata: dict[str, str] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"session_id": value} if isinstance(value, str) else value


class ListSessionsResponse(ReadRecord):
    """One page of sessions."""

    sessions: list[SessionInfo] = Field(default_factory=list)
    cursor: Cursor | None = None
