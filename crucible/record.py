"""The base class of all records that cross a process or package boundary."""

from typing import TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

R = TypeVar("R", bound="Record")


class Record(BaseModel):
    """An immutable record. An unknown field is an error, so that a misspelled one is never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def merged_over(default: R) -> AfterValidator:
    """Return a validator for a field whose default is not its class's own: fields that a value does not set are
    those of ``default``, so that naming one field changes no other."""

    def merge(value: R) -> R:
        unset = default.model_fields_set - value.model_fields_set
        return value.model_copy(update={name: getattr(default, name) for name in unset})

    return AfterValidator(merge)
