"""The base class of all records that cross a process or package boundary."""

from typing import Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict

R = TypeVar("R", bound="Record")

MAX_TEXT_LENGTH: Final = 2**30


class Record(BaseModel):
    """An immutable record. An unknown field is an error, so that a misspelled one is never ignored.

    No field, at any depth, holds NaN, an infinity or a lone surrogate: JSON has none of them.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        validate_default=True,
        allow_inf_nan=False,
        # pydantic looks into a text, and refuses lone surrogates, only if it has a limit to check
        str_max_length=MAX_TEXT_LENGTH,
    )


def merged_over(default: R) -> AfterValidator:
    """Return a validator for a field whose default is not its class's own: fields that a value does not set are
    those of ``default``, so that naming one field changes no other."""

    def merge(value: R) -> R:
        unset = default.model_fields_set - value.model_fields_set
        return value.model_copy(update={name: getattr(default, name) for name in unset})

    return AfterValidator(merge)
