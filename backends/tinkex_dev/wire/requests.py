"""Request bodies. Unknown fields are ignored, because every client version adds some."""

from typing import Annotated, Any

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, JsonValue

SeqId = Annotated[int, Field(ge=0, le=2**31 - 1)]
TtlSeconds = Annotated[int, Field(ge=1, le=315_360_000)]
Metadata = dict[str, JsonValue]


class RequestBody(BaseModel):
    """The JSON object of a request."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class CreateSession(RequestBody):
    tags: list[str] = Field(default_factory=list)
    user_metadata: Metadata | None = None
    sdk_version: str | None = None


class Heartbeat(RequestBody):
    session_id: str


class LoraFields(RequestBody):
    rank: int = Field(ge=1, le=128)
    seed: int | None = Field(default=None, ge=0, le=2**63 - 1)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class CreateModel(RequestBody):
    session_id: str
    model_seq_id: SeqId
    base_model: str
    user_metadata: Metadata | None = None
    lora_config: LoraFields


class ModelBody(RequestBody):
    model_id: str


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


class Forward(SequencedBody):
    forward_input: ForwardBackwardInput = Field(
        validation_alias=AliasChoices("forward_input", "forward_backward_input")
    )


class AdamFields(RequestBody):
    learning_rate: float = Field(default=1e-4, ge=0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, ge=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class OptimStep(SequencedBody):
    adam_params: AdamFields


class SaveWeights(SequencedBody):
    path: str | None = None
    ttl_seconds: TtlSeconds | None = None
    overwrite: bool = False
    user_metadata: Metadata | None = None


class SaveWeightsForSampler(SequencedBody):
    path: str | None = None
    sampling_session_seq_id: SeqId | None = None
    ttl_seconds: TtlSeconds | None = None
    user_metadata: Metadata | None = None


class LoadWeights(RequestBody):
    path: str
    optimizer: bool = False
    model_id: str | None = None
    seq_id: SeqId | None = None
    session_id: str | None = None
    model_seq_id: SeqId | None = None
    base_model: str | None = None
    user_metadata: Metadata | None = None


class CreateSamplingSession(RequestBody):
    session_id: str
    sampling_session_seq_id: SeqId
    base_model: str | None = None
    model_path: str | None = None


class PromptFields(RequestBody):
    chunks: list[dict[str, Any]] = Field(min_length=1)


class SamplingFields(RequestBody):
    max_tokens: int | None = Field(default=None, ge=1, le=32_768)
    seed: int | None = None
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
    prompt_logprobs: bool | None = None
    topk_prompt_logprobs: int = Field(default=0, ge=0, le=320)
    topk_sample_logprobs: int = Field(default=0, ge=0, le=320)
    prompt_logprobs_last_n: int | None = Field(default=None, ge=1)
    target_prompt_logprobs: Any = None
    prompt_alt_tokens_k: int = Field(default=0, ge=0)


class RetrieveFuture(RequestBody):
    request_id: str
    allow_metadata_only: bool = False


class PathBody(RequestBody):
    tinker_path: str


class SetTtl(RequestBody):
    ttl_seconds: TtlSeconds | None
