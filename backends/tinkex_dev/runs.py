"""A live model: a run's adapter in memory, its operations, and the record of what it was asked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.faults import CorruptionMode
from backends.tinkex_dev.lane import Lane
from backends.tinkex_dev.model.adapter import AdamStep, Adapter, AdapterShape
from backends.tinkex_dev.model.losses import evaluate
from backends.tinkex_dev.model.network import Array, Network
from backends.tinkex_dev.promises import LossOutputs, Promise
from backends.tinkex_dev.records import CheckpointKind, LoraRecord, RunRecord

_REMEMBERED: Final = 1024
"""Requests of one model that are recognised when they come again; a client has a few of them open at most."""


@dataclass(frozen=True, slots=True)
class Example:
    """One sequence with what its loss needs."""

    tokens: NDArray[np.int64]
    loss_inputs: Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Batch:
    """The body of a forward or forward_backward, whichever encoding it came in."""

    examples: Sequence[Example]
    loss_fn: str
    config: Mapping[str, float]
    forward_only: bool = False


@dataclass(slots=True)
class _Asked:
    digest: str
    promise: Promise


@dataclass(slots=True)
class LiveRun:
    """A run that can be trained. Its methods that compute are called from the one compute thread only."""

    record: RunRecord
    network: Network
    adapter: Adapter
    lane: Lane
    poisoned: CorruptionMode | None = None
    saving: set[tuple[CheckpointKind, str]] = field(default_factory=set)
    """Names of checkpoints that are in line to be written."""
    _asked: dict[int, _Asked] = field(default_factory=dict)
    _created: _Asked | None = None

    @property
    def has_trained(self) -> bool:
        """Whether any training request was taken."""
        return bool(self._asked)

    def asked_before(self, seq_id: int, digest: str) -> Promise | None:
        """The promise made when this very request came before.

        Raises:
            Refused: 409 if the seq_id was used for another request.
        """
        earlier = self._asked.get(seq_id)
        if earlier is None:
            return None
        if earlier.digest != digest:
            raise Refused(
                409, f"seq_id {seq_id} of model {self.record.id} was used for another request: its body differs"
            )
        return earlier.promise

    def remember(self, seq_id: int, digest: str, promise: Promise) -> None:
        """Record a request, so that its repetition is recognised."""
        self._asked[seq_id] = _Asked(digest, promise)
        while len(self._asked) > _REMEMBERED:
            del self._asked[next(iter(self._asked))]

    def remember_creation(self, digest: str, promise: Promise) -> None:
        """Record the request that made this run."""
        self._created = _Asked(digest, promise)

    def created_by(self, digest: str) -> Promise | None:
        """The promise of this run's creation, if the request is the one that made it."""
        made = self._created
        return made.promise if made is not None and made.digest == digest else None

    def forward_backward(self, batch: Batch) -> LossOutputs:
        """Losses and log-probabilities of each sequence; gradients are gathered unless it is forward only."""
        self.refuse_if_poisoned()
        adapters = self.adapter.low_rank
        outputs: list[dict[str, Array]] = []
        total = 0.0
        with np.errstate(all="ignore"):
            for example in batch.examples:
                trace = self.network.forward(example.tokens, adapters)
                loss, slope = evaluate(batch.loss_fn, trace.logprobs, example.loss_inputs, batch.config)
                if not batch.forward_only:
                    self.network.backward(trace, slope, adapters, self.adapter.gradients())
                outputs.append(loss.outputs)
                total += loss.value
        return LossOutputs(outputs, {"loss:sum": total})

    def optim_step(self, how: AdamStep) -> dict[str, float]:
        """One optimizer step; the answer's metrics."""
        self.refuse_if_poisoned()
        with np.errstate(all="ignore"):
            norm = self.adapter.step(how)
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
        """Raise if the run is flagged in the way that fails requests."""
        if self.poisoned is CorruptionMode.FLAG:
            raise OperationFailed(
                f"Model {self.record.id} is corrupted and cannot be used any more; "
                "create a new one from a checkpoint",
                "server",
            )


def adapter_shape(lora: LoraRecord) -> AdapterShape:
    """The adapter a run's settings ask for."""
    return AdapterShape(
        rank=lora.rank,
        train_mlp=lora.train_mlp,
        train_attn=lora.train_attn,
        train_unembed=lora.train_unembed,
    )
