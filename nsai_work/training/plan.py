"""Which examples belong to which step, and how fast to learn there: all of it follows from the step number.

That makes the step number the data cursor: whoever knows it goes on with the same batch, on any machine and with
any version of Python, so the order rests on a hash and not on a random generator.
"""

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import Self

from crucible.training import OptimizerSpec
from nsai_work.payloads import LearningRateSchedule, TrainingStep


@dataclass(frozen=True, slots=True)
class Plan:
    """A run from its first step to its last. Steps count from 1, epochs and examples from 0.

    An epoch shows every example once; its last batch may be smaller than the others.
    """

    examples: int
    batch_size: int
    total_steps: int
    seed: int
    optimizer: OptimizerSpec
    schedule: LearningRateSchedule

    @classmethod
    def of(cls, payload: TrainingStep, examples: int) -> Self:
        """The plan of a payload over so many examples. With neither ``max_steps`` nor ``epochs``, one epoch."""
        steps_per_epoch = math.ceil(examples / payload.batch_size)
        limits = [payload.max_steps] if payload.max_steps is not None else []
        if payload.epochs is not None or not limits:
            limits.append((payload.epochs or 1) * steps_per_epoch)
        return cls(
            examples=examples,
            batch_size=payload.batch_size,
            total_steps=min(limits),
            seed=payload.seed,
            optimizer=payload.optimizer,
            schedule=payload.schedule,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps in one pass over the data."""
        return math.ceil(self.examples / self.batch_size)

    def epoch(self, step: int) -> int:
        """The pass over the data that a step belongs to."""
        return (step - 1) // self.steps_per_epoch

    def batch(self, step: int) -> Sequence[int]:
        """The examples of a step, by their index in the file."""
        order = epoch_order(self.examples, self.seed, self.epoch(step))
        begin = (step - 1) % self.steps_per_epoch * self.batch_size
        return order[begin : begin + self.batch_size]

    def learning_rate(self, step: int) -> float:
        """The learning rate of a step: never 0, because a decay ends just after the last step."""
        warmup = min(self.schedule.warmup_steps, self.total_steps)
        if step <= warmup:
            return self.optimizer.learning_rate * (step / warmup)
        done = (step - 1 - warmup) / max(self.total_steps - warmup, 1)
        match self.schedule.shape:
            case "constant":
                factor = 1.0
            case "linear":
                factor = 1.0 - done
            case "cosine":
                factor = 0.5 * (1.0 + math.cos(math.pi * done))
        return self.optimizer.learning_rate * factor

    def optimizer_at(self, step: int) -> OptimizerSpec:
        """The optimizer's settings for a step."""
        return self.optimizer.model_copy(update={"learning_rate": self.learning_rate(step)})


@lru_cache(maxsize=32)
def epoch_order(examples: int, seed: int, epoch: int) -> Sequence[int]:
    """The order of the examples in an epoch."""
    key = f"{seed}:{epoch}".encode()
    return array(
        "L",
        sorted(range(examples), key=lambda index: blake2b(index.to_bytes(8), digest_size=16, key=key).digest()),
    )
