"""A prompt or an example's input: text as token ids, images, audio, in order."""

import base64
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator

from backends.tinkex.types.arrays import Numbers, as_list, same_numbers
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.wire_record import SentRecord
from crucible.errors import Unsupported


class EncodedTextChunk(SentRecord):
    """Token ids, held as given (list or numpy array)."""

    tokens: Numbers
    type: Literal["encoded_text"] = "encoded_text"

    @property
    def length(self) -> int | None:
        """How many tokens."""
        return len(self.tokens)

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        return {"type": self.type, "tokens": as_list(self.tokens)}

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, EncodedTextChunk):
            return NotImplemented
        return same_numbers(self.tokens, other.tokens)

    __hash__ = None  # type: ignore[assignment]


class ImageAssetPointerChunk(SentRecord):
    """An image that the server fetches from ``location``."""

    format: Literal["png", "jpeg"]
    location: str = Field(min_length=1)
    expected_tokens: int | None = None
    type: Literal["image_asset_pointer"] = "image_asset_pointer"

    @property
    def length(self) -> int | None:
        """How many tokens it takes, where that is known."""
        return self.expected_tokens


class DmelChunk(SentRecord):
    """Audio, as the service's own serialized tensor."""

    dmel: bytes
    type: Literal["dmel"] = "dmel"

    @field_validator("dmel", mode="before")
    @classmethod
    def _from_base64(cls, value: object) -> object:
        return base64.b64decode(value) if isinstance(value, str) else value

    @field_serializer("dmel")
    def _to_base64(self, value: bytes) -> str:
        return base64.b64encode(value).decode()

    @property
    def length(self) -> int | None:
        """Not known here: the service counts."""
        return None


ModelInputChunk = Annotated[
    EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk, Field(discriminator="type")
]


class ModelInput(SentRecord):
    """Chunks in order."""

    chunks: list[ModelInputChunk]

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> "ModelInput":
        """Text only, as token ids; a list or array is held, not copied."""
        return ModelInput.model_construct(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> Self:
        """Nothing yet."""
        return cls(chunks=[])

    def to_ints(self) -> list[int]:
        """The token ids. Raises Unsupported when there is anything but text."""
        tokens: list[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise Unsupported(f"a {chunk.type} chunk has no token ids", backend="tinkex")
            tokens += as_list(chunk.tokens)
        return tokens

    @property
    def length(self) -> int | None:
        """How many tokens in all; None when a chunk's length is known to the service only."""
        lengths = [chunk.length for chunk in self.chunks]
        return None if None in lengths else sum(length for length in lengths if length is not None)

    def append(self, chunk: ModelInputChunk) -> "ModelInput":
        """A new input with one more chunk."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> "ModelInput":
        """A new input with one more token."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def extend_ints(self, tokens: Iterable[int]) -> "ModelInput":
        """A new input with more tokens."""
        return self.append(EncodedTextChunk(tokens=list(tokens)))

    def body(self) -> dict[str, Any]:
        """The JSON form."""
        return {"chunks": [chunk.body() for chunk in self.chunks]}
