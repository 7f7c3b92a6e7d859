"""The base class of all records that cross a process or package boundary."""

from pydantic import BaseModel, ConfigDict


class Record(BaseModel):
    """An immutable record. An unknown field is an error, so that a misspelled one is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
