"""Descriptions of training runs."""

from pydantic import Field

from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.cursor import Cursor
from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class TrainingRun(ReadRecord):
    """A remote run. ``corrupted`` is False when the server omits it or sends null."""

    training_run_id: str = ""
    base_model: str = ""
    model_owner: str = ""
    is_lora: bool | None = None
    corrupted: bool = False
    lora_rank: int | None = None
    last_request_time: Timestamp | None = None
    last_checkpoint: Checkpoint | None = None
    last_sampler_checkpoint: Checkpoint | None = None
    user_metadata: dict[str, str] | None = None


class TrainingRunsResponse(ReadRecord):
    """A page of the caller's training runs."""

    training_runs: list[TrainingRun] = Field(default_factory=list)
    cursor: Cursor | None = None
