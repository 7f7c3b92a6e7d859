"""Descriptions of live models."""

from pydantic import Field

from backends.tinkex.types.optimizer import OptimizerConfigBase
from backends.tinkex.types.wire_record import ReadRecord


class ModelData(ReadRecord):
    """Architecture and names of a model. Servers differ in which of the two names they fill in."""

    arch: str | None = None
    model_name: str | None = None
    base_model: str | None = None
    tokenizer_id: str | None = None


class GetInfoResponse(ReadRecord):
    """The description of a live model."""

    model_id: str = ""
    model_data: ModelData = Field(default_factory=ModelData)
    is_lora: bool | None = None
    lora_rank: int | None = None
    model_name: str | None = None
    optimizer_config: OptimizerConfigBase | None = None

    @property
    def base_model(self) -> str | None:
        """The name of the base model, from whichever field has it."""
        return self.model_data.model_name or self.model_name or self.model_data.base_model
