"""RetryPolicy and CheckpointPolicy. Both are pure: given facts they answer, and they do no I/O."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from pydantic import AliasChoices, Field

from crucible.errors import Failure
from crucible.record import Record


class BackoffType(StrEnum):
    """How the delay grows with the attempts."""

    EXPONENTIAL = "exponential"
    LINEAR = "linear"
    CONSTANT = "constant"


DEFAULT_RETRYABLE = (
    "timeout",
    "backend_unavailable",
    "capacity",
    "answer_lost",
    "run_gone",
    "run_corrupted",
    "worker_lost",
    "store_unavailable",
)


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """Whether to try again, after how long, and why."""

    retry: bool
    delay_ms: int
    reason: str


class RetryPolicy(Record):
    """When a failed job is tried again.

    ``retryable_errors`` names error codes or categories. ``max_attempts`` counts the first attempt.
    """

    max_attempts: int = Field(default=3, ge=1, le=10_000)
    backoff_type: BackoffType = Field(
        default=BackoffType.EXPONENTIAL, validation_alias=AliasChoices("backoff_type", "backoff")
    )
    initial_delay_ms: int = Field(
        default=1_000, ge=0, le=86_400_000, validation_alias=AliasChoices("initial_delay_ms", "base_delay_ms")
    )
    max_delay_ms: int = Field(default=60_000, ge=0, le=7 * 86_400_000)
    jitter: bool = True
    retryable_errors: tuple[str, ...] = DEFAULT_RETRYABLE

    def delay_ms(self, attempt: int, jitter: Callable[[], float]) -> int:
        """Milliseconds to wait after ``attempt`` (1 is the first) failed, at most ``max_delay_ms``.

        ``jitter`` gives a number in [0, 1); with jitter on, the delay lies between half and all of the
        backoff ("equal jitter"), so that many jobs that failed together do not come back together.
        """
        if self.backoff_type is BackoffType.EXPONENTIAL:
            # 2**62 ms is past any maximum; a larger exponent would only make a larger integer
            raw = self.initial_delay_ms * 2 ** min(max(attempt, 1) - 1, 62)
        elif self.backoff_type is BackoffType.LINEAR:
            raw = self.initial_delay_ms * max(attempt, 1)
        else:
            raw = self.initial_delay_ms
        capped = min(raw, self.max_delay_ms)
        return int(capped * (0.5 + jitter() / 2)) if self.jitter else capped

    def decide(self, failure: Failure, attempt: int, jitter: Callable[[], float]) -> RetryDecision:
        """The only place that decides whether a failed attempt is followed by another."""
        if not failure.retryable:
            return RetryDecision(False, 0, f"{failure.code} is not retryable")
        if failure.code not in self.retryable_errors and failure.category not in self.retryable_errors:
            return RetryDecision(False, 0, f"the retry policy does not list {failure.code}")
        if attempt >= self.max_attempts:
            return RetryDecision(False, 0, f"attempt {attempt} of {self.max_attempts} was the last")
        delay = max(self.delay_ms(attempt, jitter), failure.retry_after_ms or 0)
        return RetryDecision(True, delay, f"{failure.code}: attempt {attempt + 1} of {self.max_attempts}")


class CheckpointStrategy(StrEnum):
    """When a training state is saved. Every strategy also saves at the end."""

    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class StepFacts:
    """What is known when an optimizer step is done. ``step`` counts from 1."""

    step: int
    total_steps: int
    steps_per_epoch: int
    metric: float | None = None
    best_metric: float | None = None


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """A committed checkpoint as the policy sees it."""

    name: str
    step: int
    metric: float | None = None
    promoted: bool = False


TEN_YEARS_S = 315_360_000


class CheckpointPolicy(Record):
    """When to save, what to keep, what to delete.

    ``steps`` saves every ``save_every`` optimizer steps; ``epoch`` at the end of each epoch; ``best`` every
    ``save_every`` steps if the metric is better than that of every checkpoint so far; ``last`` only at the end;
    ``all`` as ``steps`` and at the end of each epoch, and deletes nothing.
    ``keep_last`` newest checkpoints are kept, with ``save_best`` also the best one. ``ttl`` is in seconds: the
    service may drop a checkpoint after that time; the final one never gets it.
    """

    strategy: CheckpointStrategy = CheckpointStrategy.STEPS
    save_every: int = Field(default=100, ge=1, le=1_000_000_000)
    keep_last: int = Field(default=5, ge=1, le=1_000_000)
    save_best: bool = True
    best_metric: str = Field(default="loss", min_length=1, max_length=200)
    best_mode: Literal["min", "max"] = "min"
    ttl: int | None = Field(default=None, ge=60, le=TEN_YEARS_S)

    def wants_save(self, facts: StepFacts) -> bool:
        """Whether the state after this step is to be saved."""
        on_interval = facts.step % self.save_every == 0
        epoch_ends = facts.step % facts.steps_per_epoch == 0
        if facts.step == facts.total_steps:
            return True
        if self.strategy is CheckpointStrategy.STEPS:
            return on_interval
        if self.strategy is CheckpointStrategy.EPOCH:
            return epoch_ends
        if self.strategy is CheckpointStrategy.BEST:
            return on_interval and self.is_better(facts.metric, facts.best_metric)
        if self.strategy is CheckpointStrategy.ALL:
            return on_interval or epoch_ends
        return False

    def is_better(self, metric: float | None, best: float | None) -> bool:
        """Whether ``metric`` beats ``best``; anything finite beats nothing, and NaN beats nothing."""
        if metric is None or math.isnan(metric):
            return False
        if best is None or math.isnan(best):
            return True
        return metric < best if self.best_mode == "min" else metric > best

    def best(self, saved: Sequence[SavedCheckpoint]) -> SavedCheckpoint | None:
        """The best checkpoint by metric; of equals, the older."""
        best: SavedCheckpoint | None = None
        for checkpoint in sorted(saved, key=lambda item: item.step):
            if self.is_better(checkpoint.metric, best.metric if best else None):
                best = checkpoint
        return best

    def to_delete(self, saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
        """What may go. Never the newest, never the best (with ``save_best`` or strategy ``best``), never a
        promoted one."""
        if self.strategy is CheckpointStrategy.ALL:
            return []
        newest_first = sorted(saved, key=lambda item: item.step, reverse=True)
        spared = {item.name for item in newest_first[: self.keep_last]}
        best = self.best(saved)
        if best is not None and (self.save_best or self.strategy is CheckpointStrategy.BEST):
            spared.add(best.name)
        return [item for item in newest_first if item.name not in spared and not item.promoted]
