"""Model inputs: sequences of text, image and audio chunks."""

import base64
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_serializer, field_validator

from backends.tinkex.types.arrays import Numbers, as_list, copied_numbers, same_numbers
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.wire_record import SentRecord
from crucible.errors import Unsupported


class EncodedTextChunk(SentRecord):
    """Text as token ids, in a list or numpy array that is not copied."""

    tokens: Numbers
    type: Literal["encoded_text"] = "encoded_text"

    @property
    def length(self) -> int | None:
        """The number of tokens."""
        return len(self.tokens)

    def body(self) -> dict[str, Any]:
        """Return the JSON form."""
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
        """The number of tokens, if known."""
        return self.expected_tokens


class DmelChunk(SentRecord):
    """Audio as a tensor in the service's own serialization."""

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
        """None: only the service knows the number of tokens."""
        return None


ModelInputChunk = Annotated[
    EncodedTextChunk | ImageChunk | ImageAssetPointerChunk | DmelChunk, Field(discriminator="type")
]


class ModelInput(SentRecord):
    """The input of a prompt or example: chunks in order."""

    chunks: list[ModelInputChunk]

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> "ModelInput":
        """Return an input of token ids only. A list or array is not copied."""
        return ModelInput.model_construct(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> Self:
        """Return an input without chunks."""
        return cls(chunks=[])

    def to_ints(self) -> list[int]:
        """Return the token ids. Raises Unsupported for an input with images or audio."""
        tokens: list[int] = []
        for chunk in self.chunks:
            if not isinstance(chunk, EncodedTextChunk):
                raise Unsupported(f"a {chunk.type} chunk has no token ids", backend="tinkex")
            tokens += as_list(chunk.tokens)
        return tokens

    @property
    def length(self) -> int | None:
        """The total number of tokens; None when only the service knows a chunk's length."""
        lengths = [chunk.length for chunk in self.chunks]
        return None if None in lengths else sum(length for length in lengths if length is not None)

    def append(self, chunk: ModelInputChunk) -> "ModelInput":
        """Return a new input with a chunk appended."""
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> "ModelInput":
        """Return a new input with a token appended."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def extend_ints(self, tokens: Iterable[int]) -> "ModelInput":
        """Return a new input with tokens appended."""
        return self.append(EncodedTextChunk(tokens=list(tokens)))

    def copied(self) -> Self:
        """Return a copy whose tokens have memory of their own. Other chunks are immutable."""
        chunks = [
            chunk.model_copy(update={"tokens": copied_numbers(chunk.tokens)})
            if isinstance(chunk, EncodedTextChunk)
            else chunk
            for chunk in self.chunks
        ]
        return self.model_copy(update={"chunks": chunks})

    def body(self) -> dict[str, Any]:
        """Return the JSON form."""
        return {"chunks": [chunk.body() for chunk in self.chunks]}
