"""The training contract: what a training driver may ask of a backend, and what it gets back.

A driver that must survive its own death needs three things that a plain "train this" call cannot give:

* it knows what it is about to send *before* it sends it (``prepare_*`` reserves sequence numbers and digests
  the request; nothing has left the process yet), so that the intent can be journaled;
* it may send the same intent again (``LiveRun.send``): same sequence number, same bytes. Whether that is
  harmless is a fact about the service, stated in ``RunFeatures.replays``;
* another process may take a live run over (``TrainingBackend.attach``) knowing only a ``RunRef``.

Arrays are anything with a length and items (lists, tuples, numpy arrays); nothing here imports numpy.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, Literal, TypeVar

from pydantic import Field, JsonValue

from crucible.errors import RunCorrupted
from crucible.record import Record


class LoraSpec(Record):
    """The low-rank adapter to train. ``seed`` fixes its initial weights."""

    rank: int = Field(default=32, ge=1, le=1024)
    seed: int | None = Field(default=None, ge=0, lt=2**31)
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True


class OptimizerSpec(Record):
    """Adam, with the defaults of the Tinker API (tinker.AdamParams). ``grad_clip_norm`` 0.0 clips nothing."""

    name: Literal["adam"] = "adam"
    learning_rate: float = Field(default=1e-4, gt=0, allow_inf_nan=False)
    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    grad_clip_norm: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class RunSpec(Record):
    """What a new remote run is made from."""

    base_model: str = Field(min_length=1)
    lora: LoraSpec = LoraSpec()
    user_metadata: dict[str, str] = Field(default_factory=dict)


class RunRef(Record):
    """Enough to find a live remote run again from another process. Never holds a credential."""

    backend: str
    run_id: str
    session_id: str | None = None
    details: dict[str, JsonValue] = Field(default_factory=dict)


class CheckpointRef(Record):
    """A saved training state: ``step`` is the number of optimizer steps in it."""

    path: str
    name: str
    step: int = Field(ge=0)
    metric: float | None = None
    has_optimizer: bool = True


class CheckpointCheck(Record):
    """The answer to "may a recovery rely on this checkpoint?". ``reason`` says why not."""

    path: str
    usable: bool
    reason: str | None = None
    size_bytes: int | None = None


class RunFeatures(Record):
    """What is known of the service behind a run; ``None`` means not known yet."""

    replays: bool | None = Field(
        default=None, description="a repeated sequence number is answered from the record, not run again"
    )
    restores_optimizer: bool | None = None
    sets_corrupted_flag: bool | None = None
    loss_tolerance: float = Field(
        default=0.0,
        ge=0,
        description="relative difference up to which two losses of a step are equal",
    )


class RunState(StrEnum):
    """How a remote run is."""

    ALIVE = "alive"
    GONE = "gone"
    CORRUPTED = "corrupted"


class RunHealth(Record):
    """The service's own word on a run."""

    state: RunState
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Datum:
    """One training example: input ``tokens`` of length n, and arrays of length n that the loss reads.

    ``cross_entropy`` reads ``target_tokens`` (int) and ``weights`` (float), as in the Tinker API.
    """

    tokens: Sequence[int]
    loss_inputs: Mapping[str, Sequence[int] | Sequence[float]]


@dataclass(frozen=True, slots=True)
class StepRequest:
    """One optimizer step: gradients over ``batch``, then the optimizer. ``step`` counts from 1."""

    step: int
    batch: Sequence[Datum]
    optimizer: OptimizerSpec
    loss_fn: str = "cross_entropy"
    loss_config: Mapping[str, float] = field(default_factory=dict)


class IntentKind(StrEnum):
    """The mutating operations of a run."""

    STEP = "step"
    SAVE_STATE = "save_state"
    SAVE_SAMPLER = "save_sampler"


class Intent(Record):
    """What is about to be sent, known before it is sent; small enough to journal.

    ``digest`` is a hex digest of all that determines the effect, so that a later process can prove that what
    it is about to repeat is the same thing.
    """

    kind: IntentKind
    run_id: str
    first_seq_id: int = Field(ge=0)
    last_seq_id: int = Field(ge=0)
    step: int = Field(ge=0)
    digest: str
    name: str | None = None


@dataclass(frozen=True, slots=True)
class StepResult:
    """What an optimizer step gave: ``loss`` is the weighted mean over the batch, in nats per token."""

    loss: float
    tokens: int
    metrics: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class SaveResult:
    """Where a save lies, as the service names it. ``adopted``: it was there already under our own name."""

    path: str
    adopted: bool = False


T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


@dataclass(frozen=True, slots=True)
class Prepared(Generic[T_co]):
    """An operation ready to be sent. ``body`` belongs to the backend that made it."""

    intent: Intent
    body: object


class Pending(ABC, Generic[T_co]):
    """An operation that the service has accepted and whose result is still to come."""

    @abstractmethod
    async def result(self) -> T_co:
        """Wait for the result.

        Raises:
            RunCorrupted: the run is poisoned, by flag, by error, or because the loss is NaN or infinite.
            RunGone: the run or its session no longer exists.
            AnswerLost: the effect is not known.
            BackendError: anything else, after the transport's own retries.
        """


class LiveRun(ABC):
    """A remote run that this process drives. Operations take effect in the order in which they were sent."""

    @property
    @abstractmethod
    def ref(self) -> RunRef:
        """How another process finds this run."""

    @property
    @abstractmethod
    def features(self) -> RunFeatures:
        """What is known of the service."""

    @property
    @abstractmethod
    def next_seq_id(self) -> int:
        """The first sequence number that no prepared operation has reserved."""

    @abstractmethod
    def prepare_step(self, request: StepRequest) -> Prepared[StepResult]:
        """Reserve sequence numbers for one optimizer step. No I/O; the same request gives the same digest."""

    @abstractmethod
    def prepare_save(
        self, name: str, *, step: int, kind: IntentKind, ttl_s: int | None = None
    ) -> Prepared[SaveResult]:
        """Reserve a sequence number for a save of the training state or of sampling weights. No I/O."""

    @abstractmethod
    async def send(self, prepared: Prepared[T]) -> Pending[T]:
        """Send; returns once the service has accepted all of it, so the next may be sent.

        A save whose name is taken is adopted when the name is ours (``SaveResult.adopted``).
        """

    @abstractmethod
    async def health(self) -> RunHealth:
        """Ask the service how the run is. Raises BackendError when the service cannot be asked."""

    @abstractmethod
    async def watch(self, poll_interval_ms: int) -> RunCorrupted:
        """Return when the service is seen to mark the run corrupted; until then, do not return.

        A poll that fails changes nothing. Cancel the call to stop watching.
        """

    @abstractmethod
    async def close(self, *, unload: bool = False) -> None:
        """Stop driving the run (heartbeats end). ``unload`` also asks the service to free it."""
