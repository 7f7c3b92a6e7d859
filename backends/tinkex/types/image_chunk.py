"""Images in prompts and examples."""

import base64
import binascii
from typing import Any, Literal, Self

from pydantic import Field, field_serializer, field_validator, model_validator

from backends.tinkex.types.wire_record import SentRecord
from crucible.rendering.image_header import image_size


class ImageChunk(SentRecord):
    """An image file. ``data`` is its bytes (base64 text is decoded).

    ``height`` and ``width`` default to the values in the file's header; None when it cannot be parsed. ``tokens``
    is the known number of tokens; ``expected_tokens`` lets a service reject a mismatch early.
    """

    data: bytes
    format: Literal["png", "jpeg"]
    height: int | None = Field(default=None, ge=0)
    width: int | None = Field(default=None, ge=0)
    tokens: int | None = Field(default=None, ge=0)
    expected_tokens: int | None = None
    type: Literal["image"] = "image"

    @field_validator("data", mode="before")
    @classmethod
    def _from_base64(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        try:
            return base64.b64decode(value, validate=True)
        except binascii.Error as error:
            raise ValueError(f"not base64: {error}") from error

    @field_serializer("data")
    def _to_base64(self, value: bytes) -> str:
        return base64.b64encode(value).decode()

    @model_validator(mode="after")
    def _measure(self) -> Self:
        if self.height is None or self.width is None:
            size = image_size(self.data, self.format)
            if size is not None:
                width, height = size
                object.__setattr__(self, "width", width if self.width is None else self.width)
                object.__setattr__(self, "height", height if self.height is None else self.height)
        return self

    @property
    def length(self) -> int | None:
        """The number of tokens, if known."""
        return self.tokens if self.tokens is not None else self.expected_tokens

    def to_map(self) -> dict[str, Any]:
        """Return every field, with null for unknown values. ``from_map`` is the inverse."""
        return self.model_dump(mode="json")

    @classmethod
    def from_map(cls, fields: dict[str, Any]) -> Self:
        """Parse the result of ``to_map``. Raises pydantic.ValidationError."""
        return cls.model_validate(fields)

    def body(self) -> dict[str, Any]:
        """Return the JSON form without measures: servers measure the image themselves and reject unknown fields."""
        body = {"type": self.type, "data": base64.b64encode(self.data).decode(), "format": self.format}
        return body if self.expected_tokens is None else {**body, "expected_tokens": self.expected_tokens}
