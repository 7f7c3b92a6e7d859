"""The SDK's records: those of this client, and dataclasses where the SDK has dataclasses."""

from typing import Literal

from backends.tinkex.compat.datum import Datum, PromptProvenanceSpan, ProvenanceSpans, SampledProvenanceSpan
from backends.tinkex.compat.model_input import EncodedTextChunk, ModelInput, ModelInputChunk
from backends.tinkex.compat.results import (
    ForwardBackwardOutput,
    PromptAltTokens,
    SampledSequence,
    SampleResponse,
    StopReason,
    TopkLogprobs,
)
from backends.tinkex.compat.tensor_data import TensorData, TensorDtype
from backends.tinkex.types import (
    AdamOptimizerConfig,
    AdamParams,
    Checkpoint,
    CopyWeightsResponse,
    CreateModelResponse,
    Cursor,
    DimuonOptimizerConfig,
    DimuonParams,
    DmelChunk,
    GetInfoResponse,
    GetSamplerResponse,
    GetSessionResponse,
    ImageAssetPointerChunk,
    ImageChunk,
    ListSessionsResponse,
    LoadWeightsResponse,
    LoraConfig,
    ModelData,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
    RequestErrorCategory,
    RequestFailedResponse,
    SamplingParams,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
    SupportedModel,
    TrainingRun,
    TrainingRunsResponse,
    UnloadModelResponse,
)
from backends.tinkex.types import BillingUsage as BillingUsageResponse
from backends.tinkex.types import CheckpointsList as CheckpointsListResponse
from backends.tinkex.types import ExternalWeightsUrls as ExternalWeightsUrlsResponse
from backends.tinkex.types import OptimizerConfigBase as OptimizerConfig
from backends.tinkex.types import ServerCapabilities as GetServerCapabilitiesResponse
from backends.tinkex.types import WeightsInfo as WeightsInfoResponse

LossFnType = Literal[
    "cross_entropy", "importance_sampling", "ppo", "cispo", "dro", "gspo", "stable_reinforce", "custom"
]
LossFnInputs = dict[str, TensorData]
LossFnOutput = dict[str, TensorData]
OptimParams = AdamParams | DimuonParams
CheckpointType = Literal["training", "sampler", "external"]
SamplingClientKind = Literal["snapshot", "inflight"]
ModelID = str
RequestID = str

__all__ = [
    "AdamOptimizerConfig",
    "AdamParams",
    "BillingUsageResponse",
    "Checkpoint",
    "CheckpointType",
    "CheckpointsListResponse",
    "CopyWeightsResponse",
    "CreateModelResponse",
    "Cursor",
    "Datum",
    "DimuonOptimizerConfig",
    "DimuonParams",
    "DmelChunk",
    "EncodedTextChunk",
    "ExternalWeightsUrlsResponse",
    "ForwardBackwardOutput",
    "GetInfoResponse",
    "GetSamplerResponse",
    "GetServerCapabilitiesResponse",
    "GetSessionResponse",
    "ImageAssetPointerChunk",
    "ImageChunk",
    "ListSessionsResponse",
    "LoadWeightsResponse",
    "LoraConfig",
    "LossFnInputs",
    "LossFnOutput",
    "LossFnType",
    "ModelData",
    "ModelID",
    "ModelInput",
    "ModelInputChunk",
    "OptimParams",
    "OptimStepResponse",
    "OptimizerConfig",
    "ParsedCheckpointTinkerPath",
    "PromptAltTokens",
    "PromptProvenanceSpan",
    "ProvenanceSpans",
    "RequestErrorCategory",
    "RequestFailedResponse",
    "RequestID",
    "SampleResponse",
    "SampledProvenanceSpan",
    "SampledSequence",
    "SamplingClientKind",
    "SamplingParams",
    "SaveWeightsExternalResponse",
    "SaveWeightsForSamplerResponse",
    "SaveWeightsResponse",
    "StopReason",
    "SupportedModel",
    "TensorData",
    "TensorDtype",
    "TopkLogprobs",
    "TrainingRun",
    "TrainingRunsResponse",
    "UnloadModelResponse",
    "WeightsInfoResponse",
]
