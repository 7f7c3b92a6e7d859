"""Descriptions of checkpoints' weights."""

from backends.tinkex.types.optimizer import OptimizerConfigBase
from backends.tinkex.types.wire_record import ReadRecord


class WeightsInfo(ReadRecord):
    """The base model and adapter that a model needs in order to load a checkpoint."""

    base_model: str = ""
    is_lora: bool | None = None
    lora_rank: int | None = None
    train_unembed: bool | None = None
    train_mlp: bool | None = None
    train_attn: bool | None = None
    optimizer_config: OptimizerConfigBase | None = None
