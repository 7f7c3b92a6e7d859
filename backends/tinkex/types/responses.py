"""Results of the requests that change something."""

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord


class AcceptedRequest(ReadRecord):
    """The server has taken a request; its result is fetched under ``request_id``."""

    request_id: str = Field(min_length=1, coerce_numbers_to_str=True)
    model_id: str | None = None


class CreateModelResponse(ReadRecord):
    """A new model."""

    model_id: str = Field(min_length=1)


class OptimStepResponse(ReadRecord):
    """A step was made; ``metrics`` where the server gives any."""

    metrics: dict[str, float] = Field(default_factory=dict)


class SaveWeightsResponse(ReadRecord):
    """Where the training state lies."""

    path: str = Field(min_length=1)


class LoadWeightsResponse(ReadRecord):
    """A checkpoint was loaded."""

    path: str | None = None
    model_id: str | None = None


class SaveWeightsForSamplerResponse(ReadRecord):
    """Where the weights lie, or the sampling session that was made from them."""

    path: str | None = None
    sampling_session_id: str | None = None


class CreateSamplingSessionResponse(ReadRecord):
    """A session to sample in."""

    sampling_session_id: str = Field(min_length=1)


class UnloadModelResponse(ReadRecord):
    """The model was freed."""

    model_id: str | None = None


class GetSamplerResponse(ReadRecord):
    """What a sampling session samples from."""

    sampler_id: str = ""
    base_model: str = ""
    model_path: str | None = None


class HealthResponse(ReadRecord):
    """The server is up."""

    status: str = ""


class CheckpointArchiveUrl(ReadRecord):
    """Where an archive of a checkpoint can be fetched, and until when (as the server wrote it)."""

    url: str
    expires: str | None = None
