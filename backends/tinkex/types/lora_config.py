"""Adapter configuration."""

from pydantic import Field

from backends.tinkex.types.wire_record import SentRecord


class LoraConfig(SentRecord):
    """A low-rank adapter. ``seed`` determines its initial weights."""

    rank: int = Field(ge=1)
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True
