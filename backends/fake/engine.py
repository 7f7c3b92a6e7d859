"""The small model as a thing that trains, and that is corrupted when the script says so."""

import math

from backends.fake.model import VOCAB_SIZE, Model
from backends.fake.settings import ScriptedCorruption
from backends.local.batches import check_batch
from backends.local.engine import Engine
from crucible.errors import RunCorrupted
from crucible.training import RunSpec, StepRequest, StepResult


class FakeEngine(Engine):
    """Sums run in the order of the batch, so equal requests give equal bits."""

    def __init__(self, model: Model, spec: RunSpec, corruption: ScriptedCorruption | None = None) -> None:
        self.model = model
        self.spec = spec
        self.corruption = corruption
        self._steps = 0
        self._corrupted = False

    @property
    def corrupted(self) -> bool:
        return self._corrupted

    def check(self, request: StepRequest) -> None:
        check_batch(request, vocab_size=VOCAB_SIZE, backend="fake")

    def train(self, request: StepRequest) -> StepResult:
        loss: list[float] = []
        total: list[float] = []
        for datum in request.batch:
            targets, weights = datum.loss_inputs["target_tokens"], datum.loss_inputs["weights"]
            logprobs = self.model.backward(datum.tokens, targets, weights)
            loss += [-float(w) * float(p) for w, p in zip(weights, logprobs, strict=True)]
            total += map(float, weights)
        norm = self.model.step(request.optimizer)
        self._steps += 1
        self._corrupt_as_scripted()
        tokens = sum(len(datum.tokens) for datum in request.batch)
        return StepResult(loss=math.fsum(loss) / math.fsum(total), tokens=tokens, metrics={"grad_norm": norm})

    def digest(self) -> str:
        return self.model.digest()

    def _corrupt_as_scripted(self) -> None:
        if self.corruption is None or self._steps < self.corruption.after_steps:
            return
        self._corrupted = self.corruption.mode == "flag"
        raise RunCorrupted("the run is corrupted, as scripted", backend="fake")
