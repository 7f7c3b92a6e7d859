"""Request bodies. An unknown field is refused: ignored, it would be something asked for and silently not done."""

from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, ConfigDict, Field, JsonValue

SeqId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TtlSeconds = Annotated[int, Field(ge=1, le=315_360_000)]
Metadata = dict[str, JsonValue]
Flag = Annotated[bool, BeforeValidator(lambda value: False if value is None else value)]
"""A flag whose absence, null and false are the same request, with the same seed of its samples."""


class RequestBody(BaseModel):
    """The JSON object of a request. ``type`` repeats the name of the route, for the clients that send it."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ClientConfigBody(RequestBody):
    sdk_version: str | None = None
    type: Literal["client_config"] | None = None


class CreateSession(RequestBody):
    tags: list[str] = Field(default_factory=list)
    user_metadata: Metadata | None = None
    sdk_version: str | None = None
    project_id: str | None = None
    display_name: str | None = None
    type: Literal["create_session"] = Field(default="create_session", exclude=True)


class Heartbeat(RequestBody):
    session_id: str
    type: Literal["session_heartbeat"] = "session_heartbeat"


class FinishReasonFields(RequestBody):
    type: Literal["success", "errored", "interrupted"] = "success"


class FinishSession(RequestBody):
    reason: FinishReasonFields = FinishReasonFields()
    detail: str | None = None
    type: Literal["finish_session"] | None = None


class LoraFields(RequestBody):
    rank: int = Field(ge=1, le=128)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class AdamFamily(RequestBody):
    type: Literal["adamw"] = "adamw"


class DimuonFamily(RequestBody):
    type: Literal["dimuon"] = "dimuon"
    version: Literal[1] = 1


OptimizerFamily = Annotated[AdamFamily | DimuonFamily, Field(discriminator="type")]
ADAM = AdamFamily()


class CreateModel(RequestBody):
    session_id: str
    model_seq_id: SeqId
    base_model: str
    user_metadata: Metadata | None = None
    lora_config: LoraFields
    optimizer_config: OptimizerFamily = ADAM
    type: Literal["create_model"] = "create_model"


class ModelBody(RequestBody):
    model_id: str
    type: Literal["get_info", "unload_model"] | None = None


class SequencedBody(RequestBody):
    model_id: str
    seq_id: SeqId | None = None


class ForwardBackwardInput(RequestBody):
    data: list[dict[str, Any]] = Field(min_length=1)
    loss_fn: str
    loss_fn_config: dict[str, float | str] | None = None


class ForwardBackward(SequencedBody):
    forward_backward_input: ForwardBackwardInput
    forward_only: bool = False
    type: Literal["forward_backward"] = "forward_backward"


class Forward(SequencedBody):
    forward_input: ForwardBackwardInput = Field(
        validation_alias=AliasChoices("forward_input", "forward_backward_input")
    )
    type: Literal["forward"] = "forward"


class AdamFields(RequestBody):
    learning_rate: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, ge=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class DimuonFields(RequestBody):
    type: Literal["dimuon"]
    learning_rate: float = Field(ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)


class OptimStep(SequencedBody):
    adam_params: AdamFields | None = None
    optimizer_params: DimuonFields | None = None
    type: Literal["optim_step"] = "optim_step"


class SaveWeights(SequencedBody):
    path: str | None = None
    ttl_seconds: TtlSeconds | None = None
    overwrite: bool = False
    user_metadata: Metadata | None = None
    type: Literal["save_weights"] = "save_weights"


class SaveWeightsForSampler(SequencedBody):
    path: str | None = None
    sampling_session_seq_id: SeqId | None = None
    kind: Literal["snapshot", "inflight"] = "snapshot"
    ttl_seconds: TtlSeconds | None = None
    user_metadata: Metadata | None = None
    type: Literal["save_weights_for_sampler"] = "save_weights_for_sampler"


class SaveWeightsExternal(SequencedBody):
    path: str
    ttl_seconds: Annotated[int, Field(ge=3600, le=315_360_000)] | None = None
    age_encryption_recipients: Annotated[list[str], Field(max_length=10)] | None = None
    type: Literal["save_weights_external"] = "save_weights_external"


class LoadWeights(RequestBody):
    path: str
    optimizer: bool = False
    model_id: str | None = None
    seq_id: SeqId | None = None
    session_id: str | None = None
    model_seq_id: SeqId | None = None
    base_model: str | None = None
    user_metadata: Metadata | None = None
    optimizer_config: OptimizerFamily | None = None
    type: Literal["load_weights"] = "load_weights"


class CopyWeights(RequestBody):
    source_path: str
    session_id: str | None = None
    model_seq_id: SeqId | None = None
    destination_project_id: str | None = None
    ttl_seconds: Annotated[int, Field(ge=3600, le=315_360_000)] | None = None
    type: Literal["copy_weights"] | None = None


class CustomLossInputFields(RequestBody):
    name: str = Field(pattern=r"^[a-z_][a-z0-9_]{0,63}$")
    rank: Literal[0, 1, 2]


class CustomLossNodeFields(RequestBody):
    op: str
    name: str
    target: str
    args: list[Any] = Field(default_factory=list)
    kwargs: dict[str, Any] = Field(default_factory=dict)


class CustomLossGraphFields(RequestBody):
    format: Literal[1] = 1
    nodes: list[CustomLossNodeFields] = Field(min_length=1, max_length=2000)


class CreateCustomLoss(RequestBody):
    session_id: str
    custom_loss_seq_id: SeqId
    name: str = Field(max_length=200)
    inputs: list[CustomLossInputFields] = Field(min_length=1, max_length=16)
    graph: CustomLossGraphFields
    type: Literal["create_custom_loss"] = "create_custom_loss"


class CreateSamplingSession(RequestBody):
    session_id: str
    sampling_session_seq_id: SeqId
    base_model: str | None = None
    model_path: str | None = None
    type: Literal["create_sampling_session"] = "create_sampling_session"


class JoinSamplingSession(RequestBody):
    sampling_session_id: str
    type: Literal["join_sampling_session"] = "join_sampling_session"


class PromptFields(RequestBody):
    chunks: list[dict[str, Any]] = Field(min_length=1)


class SamplingFields(RequestBody):
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    seed: int | None = Field(default=None, ge=0)
    stop: str | list[str] | list[int] | None = None
    temperature: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    top_k: int = Field(default=-1, ge=-1)
    top_p: float = Field(default=1.0, gt=0, le=1)


class Sample(RequestBody):
    prompt: PromptFields
    sampling_params: SamplingFields
    num_samples: int = Field(default=1, ge=1, le=1024)
    base_model: str | None = None
    model_path: str | None = None
    sampling_session_id: str | None = None
    seq_id: int | None = Field(default=None, ge=0)
    prompt_logprobs: Flag = False
    topk_prompt_logprobs: int = Field(default=0, ge=0, le=320)
    topk_sample_logprobs: int = Field(default=0, ge=0, le=320)
    prompt_logprobs_last_n: int | None = Field(default=None, ge=1)
    target_prompt_logprobs: dict[str, Any] | None = None
    prompt_alt_tokens_k: int = Field(default=0, ge=0, le=320)
    record_stability_info: Flag = False
    type: Literal["sample"] = "sample"


class RetrieveFuture(RequestBody):
    request_id: str
    allow_metadata_only: bool = False
    type: Literal["retrieve_future", "cancel_future"] | None = None


class FuturesTarget(RequestBody):
    sampling_session_id: str
    cloned_sampler_id: int = Field(default=0, ge=0)
    type: Literal["sampling_session"] = "sampling_session"


class RetrieveFutures(RequestBody):
    target: FuturesTarget
    prev_cursor: int = Field(default=0, ge=0)
    timeout: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    retrieved_request_ids: list[str] = Field(default_factory=list)


class PathBody(RequestBody):
    tinker_path: str


class SetTtl(RequestBody):
    ttl_seconds: TtlSeconds | None
