"""Sampling parameters."""

from collections.abc import Sequence
from typing import Any

from pydantic import Field

from backends.tinkex.types.wire_record import SentRecord


class SamplingParams(SentRecord):
    """Sampling parameters. ``stop`` is a string, strings or token ids; ``top_k`` -1 and ``top_p`` 1 are off."""

    max_tokens: int | None = Field(default=None, ge=1)
    seed: int | None = Field(default=None, ge=0, lt=2**64)
    stop: str | Sequence[str] | Sequence[int] | None = None
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=-1, ge=-1)
    top_p: float = Field(default=1.0, ge=0, le=1)

    def body(self) -> dict[str, Any]:
        """Return the JSON form. A single stop string becomes a list, which every server accepts."""
        body = super().body()
        if isinstance(self.stop, str):
            body["stop"] = [self.stop]
        return body
