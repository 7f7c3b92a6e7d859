"""Bodies of mutating JSON requests."""

from typing import Any, Literal, Self

from pydantic import Field, SerializeAsAny, model_validator

from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.lora_config import LoraConfig
from backends.tinkex.types.optimizer import OptimizerConfig, OptimParamsBase
from backends.tinkex.types.wire_record import SentRecord


class CreateModelRequest(SentRecord):
    """Create a model from a base model."""

    session_id: str
    model_seq_id: int
    base_model: str
    lora_config: LoraConfig
    user_metadata: dict[str, str] | None = None
    optimizer_config: OptimizerConfig | None = None
    type: Literal["create_model"] = "create_model"


class OptimStepRequest(SentRecord):
    """Apply the gradients accumulated since the last step, by Adam or by another family of optimizers."""

    model_id: str
    seq_id: int
    adam_params: AdamParams | None = None
    optimizer_params: SerializeAsAny[OptimParamsBase] | None = None
    type: Literal["optim_step"] = "optim_step"

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        if (self.adam_params is None) == (self.optimizer_params is None):
            raise ValueError("one of adam_params and optimizer_params is needed")
        return self


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
    """Save sampling weights, under a name or into a new sampling session.

    ``kind``: ``snapshot``, whose weights stay as they are, or ``inflight``, whose weights move with later saves.
    """

    model_id: str
    seq_id: int
    path: str | None = None
    sampling_session_seq_id: int | None = None
    kind: Literal["snapshot", "inflight"] | None = None
    ttl_seconds: int | None = Field(default=None, ge=1)
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class CreateSamplingSessionRequest(SentRecord):
    """Create a sampling session for a base model or for saved weights."""

    session_id: str
    sampling_session_seq_id: int
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class SaveWeightsExternalRequest(SentRecord):
    """Save weights as files for use outside the service."""

    model_id: str
    path: str
    seq_id: int
    ttl_seconds: int | None = Field(default=None, ge=1)
    age_encryption_recipients: list[str] | None = None
    type: Literal["save_weights_external"] = "save_weights_external"


class CopyWeightsRequest(SentRecord):
    """Copy a checkpoint into a project."""

    source_path: str
    destination_project_id: str
    ttl_seconds: int | None = Field(default=None, ge=1)


class CustomLossInput(SentRecord):
    """An input of a custom loss: ``logprobs``, or a key of ``loss_fn_inputs``. ``rank`` is 0 for a scalar."""

    name: str
    rank: Literal[0, 1, 2]


class CustomLossNode(SentRecord):
    """A node of a traced loss, in the form of ``torch.fx``."""

    op: Literal["placeholder", "get_attr", "call_function", "call_method", "call_module", "output"]
    name: str
    target: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)


class CustomLossGraph(SentRecord):
    """A traced loss: its nodes in order of execution."""

    format: Literal[1] = 1
    nodes: list[CustomLossNode]


class CreateCustomLossRequest(SentRecord):
    """Store a traced loss in a session. ``inputs`` begins with ``logprobs``."""

    session_id: str
    custom_loss_seq_id: int
    name: str
    inputs: list[CustomLossInput]
    graph: CustomLossGraph
    type: Literal["create_custom_loss"] = "create_custom_loss"


class JoinSamplingSessionRequest(SentRecord):
    """Obtain a client's own number within a sampling session."""

    sampling_session_id: str
    type: Literal["join_sampling_session"] = "join_sampling_session"


class SamplingSessionTarget(SentRecord):
    """The requests of one client of a sampling session; ``cloned_sampler_id`` 0 is the first client."""

    sampling_session_id: str
    cloned_sampler_id: int = Field(default=0, ge=0)
    type: Literal["sampling_session"] = "sampling_session"


class RetrieveFuturesRequest(SentRecord):
    """Ask for the requests of a sampling session that have finished since ``prev_cursor``."""

    target: SamplingSessionTarget
    prev_cursor: int = 0
    timeout: float | None = None
    retrieved_request_ids: list[str] = Field(default_factory=list)


class SessionFinishReason(SentRecord):
    """The outcome of a session."""

    type: Literal["success", "errored", "interrupted"]


class FinishSessionRequest(SentRecord):
    """Finish a session. The first reason stays."""

    reason: SessionFinishReason
    detail: str | None = None
