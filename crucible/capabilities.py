"""The capabilities of a backend, as data."""

from typing import Annotated

from pydantic import Field

from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Count


class Capabilities(Record):
    """The features and limits that a backend claims. A request that needs others is refused before it is sent."""

    backend_id: str = Field(min_length=1)
    provider: str = Field(min_length=1)
    models: tuple[str, ...] = ()
    default_model: str | None = None
    accepts_other_models: bool = False
    """Names outside ``models``, such as checkpoint paths, may be valid too; the backend refuses unknown ones."""
    context_lengths: dict[str, Count] = Field(default_factory=dict)
    """The context length in tokens by model, where known."""
    supports_streaming: bool = False
    token_streaming: bool = False
    """A stream delivers text during generation; otherwise it splits the finished answer."""
    supports_tools: bool = False
    supports_vision: bool = False
    supports_audio: bool = False
    supports_json_mode: bool = False
    supports_json_schema: bool = False
    supports_extended_thinking: bool = False
    supports_thinking_history: bool = False
    """The thinking of earlier turns can be part of a prompt."""
    supports_caching: bool = False
    supports_training: bool = False
    supports_forward: bool = False
    """Forward passes of training runs: log-probabilities without gradients (``LiveRun.prepare_forward``)."""
    supports_soft_targets: bool = False
    """Several targets of a token in a ``cross_entropy`` step, and samplers that say which tokens are most likely
    (``TokenSampler.top_tokens``): distillation."""
    supports_image_training: bool = False
    """Training examples may have images in their input (``Datum.images``)."""
    supports_download: bool = False
    """Checkpoints can be downloaded as adapters that PEFT loads (``TrainingBackend.download_checkpoint``)."""
    supports_logprobs: bool = False
    supports_n: bool = False
    options: tuple[str, ...] | None = None
    """The names of the supported sampling options; ``None`` means all of them."""
    losses: tuple[str, ...] = ()
    """The allowed loss functions, as in ``TrainingBackend.losses``. Empty: only the service knows them."""
    commands: tuple[str, ...] = ()
    """The commands of a ``CommandBackend``."""
    max_tokens: Annotated[Count, Field(ge=1)] | None = None
    max_context_length: Annotated[Count, Field(ge=1)] | None = None
    max_images_per_request: Count | None = None
    requests_per_minute: Count | None = None
    tokens_per_minute: Count | None = None
    cost_per_million_input: float | None = Field(default=None, ge=0)
    cost_per_million_cached_input: float | None = Field(default=None, ge=0)
    cost_per_million_output: float | None = Field(default=None, ge=0)
    metadata: FiniteObject = Field(default_factory=dict)
