"""What the server remembers across a restart, as it is on disk."""

from datetime import datetime
from enum import StrEnum

from pydantic import Field, JsonValue

from crucible.record import Record


class CheckpointKind(StrEnum):
    """What a checkpoint is for; the value is its segment in a path."""

    TRAINING = "weights"
    SAMPLER = "sampler_weights"

    @property
    def wire_name(self) -> str:
        """The kind as listings call it."""
        return "training" if self is CheckpointKind.TRAINING else "sampler"


class LoraRecord(Record):
    """Which matrices of a run learn."""

    rank: int
    seed: int
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class SessionRecord(Record):
    """A client's session."""

    id: str
    created_at: datetime
    tags: list[str] = Field(default_factory=list)
    user_metadata: dict[str, JsonValue] | None = None
    sdk_version: str | None = None


class RunRecord(Record):
    """A training run: it stays listed when its live model is gone."""

    id: str
    session_id: str
    base_model: str
    lora: LoraRecord
    created_at: datetime
    last_request_time: datetime
    corrupted: bool = False
    user_metadata: dict[str, JsonValue] | None = None


class CheckpointRecord(Record):
    """A saved state of a run."""

    run_id: str
    kind: CheckpointKind
    name: str
    base_model: str
    lora: LoraRecord
    time: datetime
    size_bytes: int
    sha256: str
    state_digest: str
    """Of the weights and the optimizer's state, as the run's own digest was when it was saved."""
    step: int
    public: bool = False
    expires_at: datetime | None = None
    user_metadata: dict[str, JsonValue] | None = None

    @property
    def path(self) -> str:
        """The name by which clients refer to it."""
        return f"tinker://{self.run_id}/{self.kind.value}/{self.name}"


class SamplerRecord(Record):
    """A sampling session: a base model, or a checkpoint to sample from."""

    id: str
    session_id: str
    base_model: str
    model_path: str | None = None
    snapshot: bool = False
    """Whether it samples from weights that were saved for it alone; those go with their session."""
