"""What a checkpoint was trained from."""

from backends.tinkex.types.wire_record import ReadRecord


class WeightsInfo(ReadRecord):
    """Enough to make a model that a checkpoint fits into."""

    base_model: str = ""
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
