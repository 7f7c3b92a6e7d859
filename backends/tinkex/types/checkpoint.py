"""Records of checkpoints."""

from backends.tinkex.types.checkpoint_path import CheckpointKind
from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class Checkpoint(ReadRecord):
    """A checkpoint in a server's list. ``checkpoint_type`` is ``training``, ``sampler`` or unknown."""

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
        """Training can resume from it: it has weights and, if the server saves it, the optimizer state."""
        return self.checkpoint_type == CheckpointKind.TRAINING
