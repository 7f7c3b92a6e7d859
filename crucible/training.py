"""The training contract between a training driver and a backend.

A driver that survives the death of its process needs three operations that a plain "train" call does not have:

* prepare a request before it is sent: ``prepare_*`` reserves sequence numbers and digests the request without I/O,
  so that the intent can be journaled;
* send the same intent again (``LiveRun.send``): same sequence number, same bytes. Whether the service runs a repeat
  again is stated in ``RunFeatures.replays``;
* take over a live run from another process (``TrainingBackend.attach``), given only its ``RunRef``.

Arrays are sequences of any type (lists, tuples, numpy arrays); this module does not import numpy.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from pydantic import Field

from crucible.errors import RunCorrupted, Unsupported
from crucible.token_sampler import SamplerRef, TokenSampler
from crucible.values.json_types import FiniteObject
from crucible.values.record import Record
from crucible.values.scalars import Count, Name, Real, Whole


class LoraSpec(Record):
    """The low-rank adapter to train. ``seed`` determines its initial weights."""

    rank: Whole = Field(default=32, ge=1, le=1024)
    seed: Whole | None = Field(default=None, ge=0, lt=2**31)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True

    def other_shape(self, other: "LoraSpec") -> str | None:
        """Return the first field in which another adapter has other matrices; None if its weights fit this one."""
        fields = ("rank", "train_unembed", "train_mlp", "train_attn")
        return next((name for name in fields if getattr(self, name) != getattr(other, name)), None)


class OptimizerSpec(Record):
    """Adam, with the defaults of the Tinker API (tinker.AdamParams). ``grad_clip_norm`` 0.0 disables clipping."""

    name: Literal["adam"] = "adam"
    learning_rate: Real = Field(default=1e-4, gt=0)
    beta1: Real = Field(default=0.9, ge=0, lt=1)
    beta2: Real = Field(default=0.95, ge=0, lt=1)
    eps: Real = Field(default=1e-12, gt=0)
    weight_decay: Real = Field(default=0.0, ge=0)
    grad_clip_norm: Real = Field(default=0.0, ge=0)


class RunSpec(Record):
    """The specification of a new remote run."""

    base_model: Name = Field(min_length=1)
    lora: LoraSpec = LoraSpec()
    user_metadata: dict[str, str] = Field(default_factory=dict)


class RunRef(Record):
    """The reference by which another process attaches to a live remote run. Contains no credential."""

    backend: str
    run_id: str
    session_id: str | None = None
    details: FiniteObject = Field(default_factory=dict)


class CheckpointRef(Record):
    """A reference to a saved training state; ``step`` is the number of optimizer steps in it."""

    path: str
    name: str
    step: Count
    metric: float | None = None
    has_optimizer: bool = True


class CheckpointCheck(Record):
    """The result of a check whether a recovery can use a checkpoint; if not, ``reason`` explains it."""

    path: str
    usable: bool
    reason: str | None = None
    size_bytes: Count | None = None


class RunFeatures(Record):
    """Properties of the service that hosts a run; ``None`` means not known yet."""

    replays: bool | None = Field(
        default=None, description="a repeated sequence number is answered from the record, not run again"
    )
    orders: bool | None = Field(
        default=None, description="operations take effect by sequence number, in whatever order they arrive"
    )
    sets_corrupted_flag: bool | None = None
    loss_tolerance: float = Field(
        default=0.0,
        ge=0,
        description="relative difference up to which two losses of a step are equal",
    )

    @property
    def sends_ahead(self) -> bool:
        """Operations may be sent before earlier ones are accepted: their order is that of their sequence numbers,
        and one that was not accepted can be sent again."""
        return self.replays is True and self.orders is True


class RunState(StrEnum):
    """The state of a remote run."""

    ALIVE = "alive"
    GONE = "gone"
    CORRUPTED = "corrupted"


class RunHealth(Record):
    """The state of a run, as the service reports it."""

    state: RunState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class SequenceSpan:
    """A run of tokens that come from a sampled sequence: the positions ``offset`` to ``offset + length`` of its
    sampled tokens, or (``of_prompt``) of the prompt that it continues."""

    sequence_id: str
    offset: int
    length: int
    of_prompt: bool = False


@dataclass(frozen=True, slots=True)
class DatumImage:
    """An image in the input of a training example: a file, in the place of the ``length`` tokens from ``place`` on,
    whose ids mean nothing then."""

    place: int
    length: int
    format: Literal["png", "jpeg"]
    data: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Datum:
    """A training example: input ``tokens`` of length n, and arrays of length n that the loss reads.

    ``cross_entropy`` reads ``target_tokens`` (int) and ``weights`` (float), as in the Tinker API. Where
    ``Capabilities.supports_soft_targets`` holds, both may have k values for each token, those of the first token
    before those of the second: arrays of k * n. The other losses read what ``crucible.losses`` lists.
    ``token_spans`` and ``target_spans`` are the sampled sequences that the tokens and the targets come from, as
    consecutive runs of n positions in all; both or neither are given. ``images`` are those of the input, in order,
    where ``Capabilities.supports_image_training`` holds.
    """

    tokens: Sequence[int]
    loss_inputs: Mapping[str, Sequence[int] | Sequence[float]]
    token_spans: Sequence[SequenceSpan] = ()
    target_spans: Sequence[SequenceSpan] = ()
    images: Sequence[DatumImage] = ()


@dataclass(frozen=True, slots=True)
class StepRequest:
    """An optimizer step: gradients over ``batch``, then the optimizer update. ``step`` counts from 1."""

    step: int
    batch: Sequence[Datum]
    optimizer: OptimizerSpec
    loss_fn: str = "cross_entropy"
    loss_config: Mapping[str, float | str] = field(default_factory=dict)


class IntentKind(StrEnum):
    """The kinds of numbered operations of a run. All but ``forward`` change the run or the service."""

    STEP = "step"
    FORWARD = "forward"
    SAVE_STATE = "save_state"
    SAVE_SAMPLER = "save_sampler"


class Intent(Record):
    """A numbered request before it is sent, small enough to journal.

    ``digest`` is a hex digest of everything that determines the effect, so that a later process can verify that it
    repeats the same request. ``step`` is the optimizer step that it belongs to; ``name`` distinguishes requests of
    one kind and step.
    """

    kind: IntentKind
    run_id: str
    first_seq_id: Count
    last_seq_id: Count
    step: Count
    digest: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of an optimizer step.

    ``loss`` of ``cross_entropy`` is the weighted mean over the batch, in nats per token; of any other loss
    function its sum over the batch, divided by ``crucible.losses.trained_tokens``, or by 1 if that is 0.
    ``logprobs`` are those of the targets under the weights before the update, an array for each datum, as long as
    its ``target_tokens``, where the service returns them.
    """

    loss: float
    tokens: int
    metrics: Mapping[str, float]
    logprobs: Sequence[Sequence[float]] | None = None


@dataclass(frozen=True, slots=True)
class ForwardResult:
    """The result of a forward pass: for each example an array of the log-probabilities of its target tokens, in
    nats, as long as its ``target_tokens``."""

    logprobs: Sequence[Sequence[float]]


@dataclass(frozen=True, slots=True)
class SaveResult:
    """The path of a save at the service. ``adopted``: an earlier save under our name already existed."""

    path: str
    adopted: bool = False


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Prepared(Generic[T_co]):
    """An operation ready to be sent. ``body`` is opaque to all but the backend."""

    intent: Intent
    body: object


class Pending(ABC, Generic[T_co]):
    """An accepted operation whose result is pending."""

    @abstractmethod
    async def result(self) -> T_co:
        """Wait for the result.

        Raises:
            RunCorrupted: the run is corrupted, by flag, by error, or because the loss is NaN or infinite.
            RunGone: the run or its session no longer exists.
            AnswerLost: the effect is unknown.
            BackendError: any other failure, after the transport's retries.
        """


class LiveRun(ABC):
    """A remote run that this process drives.

    Operations take effect in the order in which they are sent; with ``RunFeatures.sends_ahead`` in the order of
    their sequence numbers, and then ``send`` may be called before earlier calls have returned.
    """

    @property
    @abstractmethod
    def ref(self) -> RunRef:
        """The reference for other processes."""

    @property
    @abstractmethod
    def features(self) -> RunFeatures:
        """The known properties of the service."""

    @property
    @abstractmethod
    def next_seq_id(self) -> int:
        """The first sequence number that is not reserved by a prepared operation."""

    @abstractmethod
    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        """Reserve sequence numbers for an optimizer step. No I/O; equal requests have equal digests."""

    @abstractmethod
    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        """Reserve a sequence number for a save of the training state or of sampling weights. No I/O."""

    def prepare_forward(
        self, batch: Sequence[Datum], *, step: int, name: str | None = None
    ) -> Prepared[ForwardResult]:
        """Reserve sequence numbers for a forward pass without gradients. No I/O; equal requests have equal digests.

        The examples are those of a ``cross_entropy`` step. The pass sees the weights after every operation that was
        sent before it, and changes nothing. ``step`` and ``name`` go into the intent and its digest.

        Raises:
            Unsupported: the backend has no forward passes (``Capabilities.supports_forward``).
        """
        raise Unsupported("this backend has no forward passes", backend=self.ref.backend)

    async def sampler(
        self, path: str, *, ref: SamplerRef | None = None, record_sequences: bool = False
    ) -> TokenSampler:
        """Open a sampler of weights that a run has saved, in this run's session.

        With ``ref``, the sampler that another process opened; what it sampled is not sampled again for the same
        keys. ``record_sequences``: the service records the sequences for training on this run.

        Raises:
            Unsupported: the backend samples no tokens, or records no sequences.
            NotFound: there are no such weights.
        """
        raise Unsupported("this backend samples no tokens", backend=self.ref.backend)

    @abstractmethod
    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        """Send an operation; return when the service has accepted all of it, so that the next may be sent. From
        then on its result is fetched, side by side with those of others.

        A save whose name exists already is adopted if the name is ours (``SaveResult.adopted``).
        """

    @abstractmethod
    async def health(self) -> RunHealth:
        """Query the state of the run. Raises BackendError when the service fails."""

    @abstractmethod
    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        """Poll until the service marks the run corrupted; return that error.

        Failed polls are ignored. Cancel the call to stop.
        """

    @abstractmethod
    async def close(self, *, unload: bool = False) -> None:
        """Stop driving the run, heartbeats included. ``unload`` also requests that the service free it."""
