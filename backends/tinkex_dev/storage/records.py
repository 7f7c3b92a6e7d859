"""Records of the state folder: sessions, runs, checkpoints and samplers, as they are on disk."""

from enum import StrEnum

from pydantic import Field, JsonValue

from backends.tinkex_dev.storage.age_encryption import SUFFIX
from backends.tinkex_dev.wire.requests import ADAM, OptimizerFamily
from backends.tiny_lm.adapter import AdapterShape
from crucible.adapter_files import CONFIG, WEIGHTS
from crucible.values.record import Record
from crucible.values.scalars import Instant


class SaveKind(StrEnum):
    """Purpose of a checkpoint; the value is its segment in a path."""

    TRAINING = "weights"
    SAMPLER = "sampler_weights"
    EXTERNAL = "external_weights"

    @property
    def wire_name(self) -> str:
        """The kind as listings spell it."""
        return {"weights": "training", "sampler_weights": "sampler"}.get(self.value, "external")


def checkpoint_path(run_id: str, kind: SaveKind, name: str) -> str:
    """The ``tinker://`` path of a checkpoint."""
    return f"tinker://{run_id}/{kind.value}/{name}"


class LoraRecord(Record):
    """Adapter settings of a run: its rank, its seed and which matrices train."""

    rank: int
    seed: int
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True

    @property
    def shape(self) -> AdapterShape:
        """The shape of the adapter that these settings describe."""
        return AdapterShape(
            rank=self.rank,
            train_mlp=self.train_mlp,
            train_attn=self.train_attn,
            train_unembed=self.train_unembed,
        )


class SessionRecord(Record):
    """A client session."""

    id: str
    created_at: Instant
    tags: list[str] = Field(default_factory=list)
    user_metadata: dict[str, JsonValue] | None = None
    sdk_version: str | None = None
    project_id: str | None = None
    display_name: str | None = None
    finished: str | None = None
    """The reason with which the client finished it: success, errored or interrupted. The first one stays."""
    finish_detail: str | None = None


class RunRecord(Record):
    """A training run; it stays listed after its model was unloaded."""

    id: str
    session_id: str
    base_model: str
    lora: LoraRecord
    created_at: Instant
    last_request_time: Instant
    corrupted: bool = False
    user_metadata: dict[str, JsonValue] | None = None
    optimizer: OptimizerFamily = ADAM


class StoredCheckpoint(Record):
    """A saved state of a run: everything about it but the arrays."""

    run_id: str
    kind: SaveKind
    name: str
    base_model: str
    lora: LoraRecord
    time: Instant
    size_bytes: int
    sha256: str
    state_digest: str
    """Digest of the weights and the optimizer state, as the run's own digest was at the time of the save."""
    step: int
    optimizer: OptimizerFamily = ADAM
    external_bytes: int | None = None
    """Size of all files of external weights."""
    age_recipients: tuple[str, ...] = ()
    """The public keys to which the files of external weights are encrypted; none: they are not."""
    public: bool = False
    expires_at: Instant | None = None
    user_metadata: dict[str, JsonValue] | None = None

    @property
    def path(self) -> str:
        """The ``tinker://`` path under which clients refer to it."""
        return checkpoint_path(self.run_id, self.kind, self.name)

    @property
    def encrypted_files(self) -> tuple[str, ...]:
        """The names of its encrypted files; none if its files are not encrypted."""
        return tuple(name + SUFFIX for name in (CONFIG, WEIGHTS) if self.age_recipients)


class SamplerRecord(Record):
    """A sampling session: a base model or a checkpoint to sample from."""

    id: str
    session_id: str
    base_model: str
    model_path: str | None = None
    snapshot: bool = False
    """It samples from weights saved for it alone; they are dropped with their session."""
    expires_at: Instant | None = None
    inflight_of: str | None = None
    """The run whose inflight weights it samples from; each inflight save of that run moves them."""
    run_id: str | None = None
    """The run whose save it samples from."""
