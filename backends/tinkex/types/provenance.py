"""Provenance of an example's tokens: the sampled sequences that they come from."""

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import Field

from backends.tinkex.types.wire_record import SentRecord


class _Span(SentRecord):
    sequence_id: str = Field(min_length=1)
    offset: int = Field(default=0, ge=0, lt=2**63)
    length: int = Field(ge=0, lt=2**63)

    @property
    def end(self) -> int:
        """The position after the last one."""
        return self.offset + self.length


class PromptProvenanceSpan(_Span):
    """The positions ``offset`` to ``offset + length`` of the prompt from which ``sequence_id`` was sampled."""

    type: Literal["prompt_tokens"] = "prompt_tokens"


class SampledProvenanceSpan(_Span):
    """The positions ``offset`` to ``offset + length`` of the tokens of the sampled sequence ``sequence_id``."""

    type: Literal["sampled_tokens"] = "sampled_tokens"


ProvenanceSpan = Annotated[PromptProvenanceSpan | SampledProvenanceSpan, Field(discriminator="type")]


def check_cover(name: str, spans: Sequence[Any], length: int | None) -> None:
    """Raise ValueError unless the consecutive spans cover exactly ``length`` positions; None is unknown."""
    covered = sum(span.length for span in spans)
    if length is not None and covered != length:
        raise ValueError(f"{name}: the spans cover {covered} positions of {length}")
