"""A training run, as a server describes it."""

from pydantic import Field

from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.cursor import Cursor
from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class TrainingRun(ReadRecord):
    """One remote run. ``corrupted`` is always a bool: a server that does not say so has not marked it."""

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
    """One page of the caller's training runs."""

    training_runs: list[TrainingRun] = Field(default_factory=list)
    cursor: Cursor | None = None
