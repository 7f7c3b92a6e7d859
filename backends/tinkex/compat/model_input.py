"""The SDK's model inputs. Their tokens are lists of their own, whatever the caller does with those that it gave."""

from collections.abc import Iterable, Sequence
from typing import Any, Self

from pydantic import field_validator

from backends.tinkex import types as ours
from backends.tinkex.types.arrays import as_list


class EncodedTextChunk(ours.EncodedTextChunk):
    """Text as token ids, in a list of its own."""

    @field_validator("tokens", mode="after")
    @classmethod
    def _copy(cls, tokens: Any) -> list[int]:
        return as_list(tokens)


class ModelInput(ours.ModelInput):
    """The input of a prompt or example: chunks in order."""

    @classmethod
    def from_ints(cls, tokens: Sequence[int]) -> Self:
        """Return an input of token ids only."""
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    def append(self, chunk: ours.ModelInputChunk) -> Self:
        """Return a new input with a chunk appended."""
        return type(self)(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> Self:
        """Return a new input with a token appended."""
        return self.append(EncodedTextChunk(tokens=[token]))

    def extend_ints(self, tokens: Iterable[int]) -> Self:
        """Return a new input with tokens appended."""
        return self.append(EncodedTextChunk(tokens=list(tokens)))


ModelInputChunk = EncodedTextChunk | ours.ImageChunk | ours.ImageAssetPointerChunk | ours.DmelChunk
