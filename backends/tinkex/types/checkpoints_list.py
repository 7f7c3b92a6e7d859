"""Lists of checkpoints."""

from pydantic import Field

from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.cursor import Cursor
from backends.tinkex.types.wire_record import ReadRecord


class CheckpointsList(ReadRecord):
    """A page of checkpoints; without a cursor, all of them."""

    checkpoints: list[Checkpoint] = Field(default_factory=list)
    cursor: Cursor | None = None
