"""Bodies of mutating JSON requests."""

from typing import Literal

from pydantic import Field

from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.lora_config import LoraConfig
from backends.tinkex.types.wire_record import SentRecord


class CreateModelRequest(SentRecord):
    """Create a model from a base model."""

    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: LoraConfig
    user_metadata: dict[str, str] | None = None
    type: Literal["create_model"] = "create_model"


class OptimStepRequest(SentRecord):
    """Apply the gradients accumulated since the last step."""

    model_id: str
    seq_id: int
    adam_params: AdamParams
    type: Literal["optim_step"] = "optim_step"


class SaveWeightsRequest(SentRecord):
    """Save weights and optimizer state under a name. ``overwrite`` and ``ttl_seconds`` are sent only when set."""

    model_id: str
    path: str
    seq_id: int
    overwrite: Literal[True] | None = None
    ttl_seconds: int | None = Field(default=None, ge=1)
    type: Literal["save_weights"] = "save_weights"


class LoadWeightsRequest(SentRecord):
    """Load a checkpoint into a live model, with or without its optimizer state."""

    model_id: str
    seq_id: int
    path: str
    optimizer: bool
    type: Literal["load_weights"] = "load_weights"


class SaveWeightsForSamplerRequest(SentRecord):
    """Save sampling weights, under a name or into a new sampling session."""

    model_id: str
    seq_id: int
    path: str | None = None
    sampling_session_seq_id: int | None = None
    ttl_seconds: int | None = Field(default=None, ge=1)
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class CreateSamplingSessionRequest(SentRecord):
    """Create a sampling session for a base model or for saved weights."""

    session_id: str
    sampling_session_seq_id: int
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"
