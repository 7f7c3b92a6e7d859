"""The step plan: maps a step number to its place in the data and its learning rate.

The step number is therefore the data cursor.
"""

import math
from dataclasses import dataclass
from typing import Final, Self

from crucible.training import OptimizerSpec
from nsai_work.payloads import LearningRateSchedule, TrainingStep

_DEPTH: Final = 2
_DEPTH_AHEAD: Final = 8


@dataclass(frozen=True, slots=True)
class Plan:
    """The length of a job and the learning rates of its steps. Steps count from 1, epochs and examples from 0. A
    batch is trained on in ``substeps`` steps."""

    examples: int
    batch_size: int
    total_steps: int
    seed: int
    optimizer: OptimizerSpec
    schedule: LearningRateSchedule
    substeps: int = 1

    @classmethod
    def of(cls, payload: TrainingStep, examples: int, *, batch_size: int | None = None, substeps: int = 1) -> Self:
        """Return the plan of a payload for a number of examples. The default length is one epoch."""
        batch_size = batch_size or payload.batch_size
        steps_per_epoch = math.ceil(examples / batch_size) * substeps
        limits = [payload.max_steps] if payload.max_steps is not None else []
        if payload.epochs is not None or not limits:
            limits.append((payload.epochs or 1) * steps_per_epoch)
        return cls(
            examples=examples,
            batch_size=batch_size,
            total_steps=min(limits),
            seed=payload.seed,
            optimizer=payload.optimizer,
            schedule=payload.schedule,
            substeps=substeps,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        return math.ceil(self.examples / self.batch_size) * self.substeps

    def epoch(self, step: int) -> int:
        """Return the epoch of a step: its pass over the data, from 0."""
        return (step - 1) // self.steps_per_epoch

    def cursor(self, step: int) -> int:
        """Return the number of examples of its epoch before a step."""
        return (step - 1) % self.steps_per_epoch // self.substeps * self.batch_size

    def learning_rate(self, step: int) -> float:
        """Return the learning rate of a step. It is never 0: a decay would reach 0 one step after the last."""
        begin = self.schedule.from_step
        step, total = step - begin, self.total_steps - begin
        warmup = min(self.schedule.warmup_steps, total)
        if step <= warmup:
            return self.optimizer.learning_rate * (step / warmup)
        done = (step - 1 - warmup) / max(total - warmup, 1)
        match self.schedule.shape:
            case "constant":
                factor = 1.0
            case "linear":
                factor = 1.0 - done
            case "cosine":
                factor = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.optimizer.learning_rate * factor

    def optimizer_at(self, step: int) -> OptimizerSpec:
        """Return the optimizer settings of a step."""
        return self.optimizer.model_copy(update={"learning_rate": self.learning_rate(step)})


def steps_in_flight(payload: TrainingStep, *, ahead: bool) -> int:
    """Return the maximum number of optimizer steps in flight: ``pipeline_depth``, or a default that hides
    the network. ``ahead``: whether operations are sent before earlier ones are accepted."""
    if payload.pipeline_depth is not None:
        return payload.pipeline_depth
    return _DEPTH_AHEAD if ahead else _DEPTH
