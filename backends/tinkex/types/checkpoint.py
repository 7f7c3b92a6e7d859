"""A saved state of a training run, as a server lists it."""

from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class Checkpoint(ReadRecord):
    """One saved state. ``checkpoint_type`` is ``training`` or ``sampler``; other kinds are kept as they come."""

    checkpoint_id: str = ""
    checkpoint_type: str = ""
    time: Timestamp | None = None
    tinker_path: str = ""
    size_bytes: int | None = None
    public: bool = False
    expires_at: Timestamp | None = None
    user_metadata: dict[str, str] | None = None

    @property
    def holds_training_state(self) -> bool:
        """Whether training can go on from it (weights and, where the server keeps it, the optimizer)."""
        return self.checkpoint_type == CheckpointKind.TRAINING

    def parsed_path(self) -> ParsedCheckpointTinkerPath:
        """The parts of ``tinker_path``. Raises InvalidRequest when it is no tinker path."""
        return ParsedCheckpointTinkerPath.from_tinker_path(self.tinker_path)
