"""Results of requests."""

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord


class AcceptedRequest(ReadRecord):
    """An accepted request, whose result is retrieved under ``request_id``."""

    request_id: str = Field(min_length=1, coerce_numbers_to_str=True)
    model_id: str | None = None


class CreateModelResponse(ReadRecord):
    """A created model."""

    model_id: str = Field(min_length=1)


class OptimStepResponse(ReadRecord):
    """The result of an optimizer step, with ``metrics`` if the server returns any."""

    metrics: dict[str, float] = Field(default_factory=dict)


class SaveWeightsResponse(ReadRecord):
    """The path of a saved training state."""

    path: str = Field(min_length=1)


class LoadWeightsResponse(ReadRecord):
    """The result of loading a checkpoint."""

    path: str | None = None
    model_id: str | None = None


class SaveWeightsForSamplerResponse(ReadRecord):
    """The path of saved sampling weights, or the sampling session that was created from them."""

    path: str | None = None
    sampling_session_id: str | None = None


class CreateSamplingSessionResponse(ReadRecord):
    """A created sampling session."""

    sampling_session_id: str = Field(min_length=1)


class UnloadModelResponse(ReadRecord):
    """The result of freeing a model."""

    model_id: str | None = None


class GetSamplerResponse(ReadRecord):
    """The description of a sampling session."""

    sampler_id: str = ""
    base_model: str = ""
    model_path: str | None = None


class HealthResponse(ReadRecord):
    """The health of a server."""

    status: str = ""


class CheckpointArchiveUrl(ReadRecord):
    """The URL of a checkpoint's archive, and its expiry as the server wrote it."""

    url: str
    expires: str | None = None
