"""Base classes of received and sent records."""

from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, NaiveDatetime, model_validator

from crucible.values.scalars import in_utc


class ReadRecord(BaseModel):
    """A record received from a server. Keeps unknown fields and treats null as absent: servers differ in both."""

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=())

    @model_validator(mode="before")
    @classmethod
    def _null_is_absent(cls, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: item for key, item in value.items() if item is not None}
        return value


class SentRecord(BaseModel):
    """A record sent to a server. Rejects unknown fields, which are typing mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    def body(self) -> dict[str, Any]:
        """Return the JSON body, without fields that are None."""
        return self.model_dump(mode="json", exclude_none=True)


def _assume_utc(value: datetime) -> datetime:
    return in_utc(value if value.tzinfo is not None else value.replace(tzinfo=UTC))


# not of datetime itself: pydantic builds no schema for the class that a frozen clock puts in its place
Timestamp = Annotated[AwareDatetime | NaiveDatetime, AfterValidator(_assume_utc)]
"""A point in time, in UTC. Servers write it with or without a time zone; without one it is UTC."""
