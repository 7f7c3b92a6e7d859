"""Results of requests."""

from typing import Literal

from pydantic import Field

from backends.tinkex.types.wire_record import ReadRecord, Timestamp


class AcceptedRequest(ReadRecord):
    """An accepted request, whose result is retrieved under ``request_id``.

    ``sample_sequence_ids``: the ids of the sequences of a sampling request, if the server gives any.
    """

    request_id: str = Field(min_length=1, coerce_numbers_to_str=True)
    model_id: str | None = None
    sample_sequence_ids: list[str] | None = None


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


class SaveWeightsExternalResponse(ReadRecord):
    """Weights that were saved as files. ``size_bytes`` is the size of all of them."""

    path: str = Field(min_length=1)
    size_bytes: int | None = None


class ExternalWeightsUrls(ReadRecord):
    """The signed URL of each file of external weights by its relative path, and the expiry of the URLs."""

    urls: dict[str, str] = Field(default_factory=dict)
    expires: Timestamp | None = None


class CopyWeightsResponse(ReadRecord):
    """The path of a copied checkpoint."""

    tinker_path: str = Field(min_length=1)


class CreateCustomLossResponse(ReadRecord):
    """A stored loss; its session's requests name it by ``loss_id``."""

    loss_id: str = Field(min_length=1)


class JoinSamplingSessionResponse(ReadRecord):
    """A client's number within a sampling session, of at least 1; the first client has 0."""

    client_counter: int


class FutureCompletion(ReadRecord):
    """A request that has ended."""

    state: Literal["finished", "failed"]
    request_id: str
    response_payload_uncompressed_size: int | None = None


class RetrieveFuturesResponse(ReadRecord):
    """The requests that ended since the last call. ``cursor`` is the next call's ``prev_cursor``."""

    completions: list[FutureCompletion] = Field(default_factory=list)
    cursor: int = 0
