"""The records of the Tinker API. Each is imported when it is first used."""

import importlib
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from backends.tinkex.types.adam_params import AdamParams as AdamParams
    from backends.tinkex.types.checkpoint import Checkpoint as Checkpoint
    from backends.tinkex.types.checkpoint_path import CheckpointKind as CheckpointKind
    from backends.tinkex.types.checkpoint_path import ParsedCheckpointTinkerPath as ParsedCheckpointTinkerPath
    from backends.tinkex.types.checkpoints_list import CheckpointsList as CheckpointsList
    from backends.tinkex.types.client_config import ClientConfig as ClientConfig
    from backends.tinkex.types.cursor import Cursor as Cursor
    from backends.tinkex.types.datum import Datum as Datum
    from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput as ForwardBackwardOutput
    from backends.tinkex.types.future_answer import CompleteMetadata as CompleteMetadata
    from backends.tinkex.types.future_answer import QueueState as QueueState
    from backends.tinkex.types.future_answer import RequestErrorCategory as RequestErrorCategory
    from backends.tinkex.types.future_answer import RequestFailedResponse as RequestFailedResponse
    from backends.tinkex.types.future_answer import TryAgainResponse as TryAgainResponse
    from backends.tinkex.types.image_chunk import ImageChunk as ImageChunk
    from backends.tinkex.types.lora_config import LoraConfig as LoraConfig
    from backends.tinkex.types.model_info import GetInfoResponse as GetInfoResponse
    from backends.tinkex.types.model_info import ModelData as ModelData
    from backends.tinkex.types.model_input import DmelChunk as DmelChunk
    from backends.tinkex.types.model_input import EncodedTextChunk as EncodedTextChunk
    from backends.tinkex.types.model_input import ImageAssetPointerChunk as ImageAssetPointerChunk
    from backends.tinkex.types.model_input import ModelInput as ModelInput
    from backends.tinkex.types.model_input import ModelInputChunk as ModelInputChunk
    from backends.tinkex.types.requests import CreateModelRequest as CreateModelRequest
    from backends.tinkex.types.requests import CreateSamplingSessionRequest as CreateSamplingSessionRequest
    from backends.tinkex.types.requests import LoadWeightsRequest as LoadWeightsRequest
    from backends.tinkex.types.requests import OptimStepRequest as OptimStepRequest
    from backends.tinkex.types.requests import SaveWeightsForSamplerRequest as SaveWeightsForSamplerRequest
    from backends.tinkex.types.requests import SaveWeightsRequest as SaveWeightsRequest
    from backends.tinkex.types.responses import AcceptedRequest as AcceptedRequest
    from backends.tinkex.types.responses import CheckpointArchiveUrl as CheckpointArchiveUrl
    from backends.tinkex.types.responses import CreateModelResponse as CreateModelResponse
    from backends.tinkex.types.responses import CreateSamplingSessionResponse as CreateSamplingSessionResponse
    from backends.tinkex.types.responses import GetSamplerResponse as GetSamplerResponse
    from backends.tinkex.types.responses import HealthResponse as HealthResponse
    from backends.tinkex.types.responses import LoadWeightsResponse as LoadWeightsResponse
    from backends.tinkex.types.responses import OptimStepResponse as OptimStepResponse
    from backends.tinkex.types.responses import SaveWeightsForSamplerResponse as SaveWeightsForSamplerResponse
    from backends.tinkex.types.responses import SaveWeightsResponse as SaveWeightsResponse
    from backends.tinkex.types.responses import UnloadModelResponse as UnloadModelResponse
    from backends.tinkex.types.sample_response import SampledSequence as SampledSequence
    from backends.tinkex.types.sample_response import SampleResponse as SampleResponse
    from backends.tinkex.types.sample_response import TopkLogprobs as TopkLogprobs
    from backends.tinkex.types.sampling_params import SamplingParams as SamplingParams
    from backends.tinkex.types.server_capabilities import ServerCapabilities as ServerCapabilities
    from backends.tinkex.types.server_capabilities import SupportedModel as SupportedModel
    from backends.tinkex.types.session import CreateSessionRequest as CreateSessionRequest
    from backends.tinkex.types.session import CreateSessionResponse as CreateSessionResponse
    from backends.tinkex.types.session import GetSessionResponse as GetSessionResponse
    from backends.tinkex.types.session import ListSessionsResponse as ListSessionsResponse
    from backends.tinkex.types.session import SessionInfo as SessionInfo
    from backends.tinkex.types.tensor_data import TensorData as TensorData
    from backends.tinkex.types.training_run import TrainingRun as TrainingRun
    from backends.tinkex.types.training_run import TrainingRunsResponse as TrainingRunsResponse
    from backends.tinkex.types.weights_info import WeightsInfo as WeightsInfo

_HOME: Final = {
    "AcceptedRequest": "responses",
    "AdamParams": "adam_params",
    "Checkpoint": "checkpoint",
    "CheckpointArchiveUrl": "responses",
    "CheckpointKind": "checkpoint_path",
    "CheckpointsList": "checkpoints_list",
    "ClientConfig": "client_config",
    "CompleteMetadata": "future_answer",
    "CreateModelRequest": "requests",
    "CreateModelResponse": "responses",
    "CreateSamplingSessionRequest": "requests",
    "CreateSamplingSessionResponse": "responses",
    "CreateSessionRequest": "session",
    "CreateSessionResponse": "session",
    "Cursor": "cursor",
    "Datum": "datum",
    "DmelChunk": "model_input",
    "EncodedTextChunk": "model_input",
    "ForwardBackwardOutput": "forward_backward_output",
    "GetInfoResponse": "model_info",
    "GetSamplerResponse": "responses",
    "GetSessionResponse": "session",
    "HealthResponse": "responses",
    "ImageAssetPointerChunk": "model_input",
    "ImageChunk": "image_chunk",
    "ListSessionsResponse": "session",
    "LoadWeightsRequest": "requests",
    "LoadWeightsResponse": "responses",
    "LoraConfig": "lora_config",
    "ModelData": "model_info",
    "ModelInput": "model_input",
    "ModelInputChunk": "model_input",
    "OptimStepRequest": "requests",
    "OptimStepResponse": "responses",
    "ParsedCheckpointTinkerPath": "checkpoint_path",
    "QueueState": "future_answer",
    "RequestErrorCategory": "future_answer",
    "RequestFailedResponse": "future_answer",
    "SampleResponse": "sample_response",
    "SampledSequence": "sample_response",
    "SamplingParams": "sampling_params",
    "SaveWeightsForSamplerRequest": "requests",
    "SaveWeightsForSamplerResponse": "responses",
    "SaveWeightsRequest": "requests",
    "SaveWeightsResponse": "responses",
    "ServerCapabilities": "server_capabilities",
    "SessionInfo": "session",
    "SupportedModel": "server_capabilities",
    "TensorData": "tensor_data",
    "TopkLogprobs": "sample_response",
    "TrainingRun": "training_run",
    "TrainingRunsResponse": "training_run",
    "TryAgainResponse": "future_answer",
    "UnloadModelResponse": "responses",
    "WeightsInfo": "weights_info",
}

__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    try:
        home = _HOME[name]
    except KeyError:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
    value = getattr(importlib.import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
