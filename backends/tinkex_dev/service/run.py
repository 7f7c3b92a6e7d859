"""A live model: its adapter, its lane of operations, and the record of its requests."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex.types.provenance import ProvenanceSpan
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.faults import CorruptionMode
from backends.tinkex_dev.service.lane import ServerLane
from backends.tinkex_dev.service.promises import LossOutputs, Promise
from backends.tinkex_dev.storage.records import RunRecord, SaveKind
from backends.tiny_lm.adapter import AdamStep, Adapter, DimuonStep
from backends.tiny_lm.losses import LossFunction
from backends.tiny_lm.network import Array, Network
from backends.tiny_lm.training_pass import forward_backward

_JOINS: Final[Mapping[str, Callable[[Sequence[float]], float]]] = {"sum": sum, "max": max, "mean": fmean}
CUSTOM: Final = "custom"
"""The name under which a request uses a loss that its session stored."""
_MAX_RECORDED: Final = 1024
"""Requests per model that are recognized when repeated; a client has only a few in flight."""


@dataclass(frozen=True, slots=True)
class Provenance:
    """The sampled sequences that an example's tokens and its loss's rows come from, as consecutive spans."""

    model_input: tuple[ProvenanceSpan, ...]
    rows: tuple[ProvenanceSpan, ...]


@dataclass(frozen=True, slots=True)
class BatchExample:
    """A sequence with the inputs of its loss."""

    tokens: NDArray[np.int64]
    loss_inputs: Mapping[str, NDArray[np.generic]]
    provenance: Provenance | None = None


@dataclass(frozen=True, slots=True)
class Batch:
    """The decoded body of a forward or forward_backward request."""

    examples: Sequence[BatchExample]
    loss_fn: str
    config: Mapping[str, float | str]
    forward_only: bool = False


@dataclass(slots=True)
class _RecordedRequest:
    digest: str
    promise: Promise


@dataclass(slots=True)
class ServerRun:
    """A trainable run. Its computing methods are called from the compute thread only."""

    record: RunRecord
    network: Network
    adapter: Adapter
    lane: ServerLane
    poisoned: CorruptionMode | None = None
    saving: set[tuple[SaveKind, str]] = field(default_factory=set)
    """Checkpoint names reserved by saves that are still queued."""
    _requests: dict[int, _RecordedRequest] = field(default_factory=dict)
    _creation: _RecordedRequest | None = None

    @property
    def has_trained(self) -> bool:
        """Any training request was accepted."""
        return bool(self._requests)

    def earlier_promise(self, seq_id: int, digest: str) -> Promise | None:
        """The promise of the same request sent before, if any.

        Raises:
            Refused: 409 if the seq_id was used for another request.
        """
        earlier = self._requests.get(seq_id)
        if earlier is None:
            return None
        if earlier.digest != digest:
            raise Refused(
                409, f"seq_id {seq_id} of model {self.record.id} was used for another request: its body differs"
            )
        return earlier.promise

    def record_request(self, seq_id: int, digest: str, promise: Promise) -> None:
        """Record a request, so that its repetition is recognized."""
        self._requests[seq_id] = _RecordedRequest(digest, promise)
        while len(self._requests) > _MAX_RECORDED:
            del self._requests[next(iter(self._requests))]

    def record_creation(self, digest: str, promise: Promise) -> None:
        """Record the request that created this run."""
        self._creation = _RecordedRequest(digest, promise)

    def creation_promise(self, digest: str) -> Promise | None:
        """The promise of this run's creation, if a request of that digest created it."""
        creation = self._creation
        return creation.promise if creation is not None and creation.digest == digest else None

    def forward_backward(self, batch: Batch, custom: LossFunction | None = None) -> LossOutputs:
        """Compute the losses and log-probabilities of a batch; unless it is forward only, accumulate gradients.

        ``custom``: the loss of a batch whose ``loss_fn`` is ``custom``.
        """
        config = {key: value for key, value in batch.config.items() if not isinstance(value, str)}
        gathered: dict[str, list[float]] = {}
        self.refuse_if_poisoned()
        outputs: list[dict[str, Array]] = []
        total = 0.0
        for example in batch.examples:
            loss = forward_backward(
                self.network,
                self.adapter,
                example.tokens,
                loss_fn=custom or batch.loss_fn,
                inputs=example.loss_inputs,
                config=config,
                forward_only=batch.forward_only,
            )
            outputs.append(loss.outputs)
            total += loss.value
            for name, value in loss.metrics.items():
                gathered.setdefault(name, []).append(value)
        metrics = {name: _JOINS[name.rpartition(":")[2]](values) for name, values in gathered.items()}
        return LossOutputs(outputs, {"loss:sum": total, **metrics})

    def optim_step(self, parameters: AdamStep | DimuonStep) -> dict[str, float]:
        """Make one optimizer step; returns its metrics."""
        self.refuse_if_poisoned()
        norm = self.adapter.step(parameters)
        return {"grad_norm": norm, "optimizer_step": float(self.adapter.steps)}

    def poison(self, mode: CorruptionMode) -> None:
        """Corrupt the run."""
        self.poisoned = mode
        if mode is CorruptionMode.NAN:
            self.adapter.poison()
        else:
            self.record = self.record.model_copy(update={"corrupted": True})
        if mode is CorruptionMode.SILENT:
            self.adapter.scramble(self.adapter.steps)

    def refuse_if_poisoned(self) -> None:
        """Raise OperationFailed if the run is corrupted in the mode that fails requests."""
        if self.poisoned is CorruptionMode.FLAG:
            raise OperationFailed(
                f"Model {self.record.id} is corrupted and cannot be used; create a new model from a checkpoint",
                "server",
            )
