"""The fake backend's engine: the tiny model, trained in this process and corrupted as scripted."""

import math
from collections.abc import Mapping, Sequence
from functools import cache

import numpy as np

from backends.fake.settings import ScriptedCorruption
from backends.local.engine import Engine
from backends.local.validation import check_batch, check_examples
from backends.tiny_lm.adapter import AdamStep, Adapter, AdapterShape, digest_of
from backends.tiny_lm.losses import Loss
from backends.tiny_lm.network import VOCAB, Network
from backends.tiny_lm.training_pass import forward_backward, single_threaded
from crucible.errors import RunCorrupted
from crucible.losses import TARGETS, targets_per_token, trained_tokens
from crucible.training import (
    Datum,
    ForwardResult,
    LoraSpec,
    OptimizerSpec,
    RunSpec,
    StepRequest,
    StepResult,
)


class FakeEngine(Engine):
    """An adapter, by default a new one, on the frozen network of its base model.

    Sums run in the order of the batch, so equal requests give equal bits.
    """

    def __init__(self, spec: RunSpec, adapter: Adapter | None = None) -> None:
        self.spec = spec
        self.network = base_network(spec.base_model)
        self.adapter = adapter or Adapter(adapter_shape(spec.lora), spec.lora.seed or 0)
        self.corruption: ScriptedCorruption | None = None
        self._steps = 0
        self._corrupted = False

    @property
    def corrupted(self) -> bool:
        return self._corrupted

    def check(self, request: StepRequest) -> None:
        check_batch(request, vocab_size=VOCAB, backend="fake")

    def train(self, request: StepRequest) -> StepResult:
        with single_threaded():
            passes = [self._pass(datum, request.loss_fn, request.loss_config) for datum in request.batch]
            norm = self.adapter.step(_adam_step(request.optimizer))
        self._steps += 1
        self._corrupt_as_scripted()
        tokens = sum(len(datum.tokens) for datum in request.batch)
        return StepResult(
            loss=math.fsum(each.value for each in passes) / (trained_tokens(request.batch) or 1.0),
            tokens=tokens,
            metrics={"grad_norm": norm},
            logprobs=[each.outputs["logprobs"].ravel().tolist() for each in passes],
        )

    def check_forward(self, batch: Sequence[Datum]) -> None:
        check_examples(batch, vocab_size=VOCAB, backend="fake")

    def forward(self, batch: Sequence[Datum]) -> ForwardResult:
        with single_threaded():
            passes = [self._pass(datum, "cross_entropy", {}, forward_only=True) for datum in batch]
        return ForwardResult([each.outputs["logprobs"].ravel().tolist() for each in passes])

    def digest(self) -> str:
        return digest_of(self.adapter.state(optimizer=False))

    def _pass(
        self, datum: Datum, loss_fn: str, config: Mapping[str, float | str], *, forward_only: bool = False
    ) -> Loss:
        targets = targets_per_token(datum)
        shape = (-1,) if targets == 1 else (-1, targets)
        return forward_backward(
            self.network,
            self.adapter,
            np.asarray(datum.tokens, dtype=np.int64),
            loss_fn=loss_fn,
            inputs={
                name: np.asarray(values, dtype=np.int64 if name == TARGETS else np.float64).reshape(shape)
                for name, values in datum.loss_inputs.items()
            },
            config={name: float(value) for name, value in config.items()},
            forward_only=forward_only,
        )

    def _corrupt_as_scripted(self) -> None:
        if self.corruption is None or self._steps < self.corruption.after_steps:
            return
        self._corrupted = self.corruption.mode == "flag"
        raise RunCorrupted("the run is corrupted, as scripted", backend="fake")


@cache
def base_network(name: str) -> Network:
    """The frozen base model of that name, shared by all runs of this process."""
    return Network(name, seed=0)


def adapter_shape(lora: LoraSpec) -> AdapterShape:
    """The shape of the adapter that a spec describes."""
    return AdapterShape(
        rank=lora.rank, train_mlp=lora.train_mlp, train_attn=lora.train_attn, train_unembed=lora.train_unembed
    )


def _adam_step(optimizer: OptimizerSpec) -> AdamStep:
    return AdamStep(**optimizer.model_dump(exclude={"name"}))
