"""The two kinds of record on the wire: what a server says, and what is said to a server."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, model_validator


class ReadRecord(BaseModel):
    """What a server says. Unknown fields are kept, and null counts as absent: servers differ in both."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value


class SentRecord(BaseModel):
    """What is said to a server. An unknown field is a typing mistake and refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def body(self) -> dict[str, Any]:
        """The JSON body: a field is sent only when it says something."""
        return self.model_dump(mode="json", exclude_none=True)


def _assume_utc(value: datetime) -> datetime:
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


Timestamp = Annotated[datetime, AfterValidator(_assume_utc)]
"""A moment. Servers write it with and without a zone; without one it is UTC."""
