"""RetryPolicy and CheckpointPolicy: pure decisions, without I/O."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal, TypeAlias

from pydantic import AliasChoices, Field

from crucible.errors import Failure
from crucible.values.durations import equal_jitter, exponential_backoff
from crucible.values.record import Record
from crucible.values.scalars import Real, Whole

BackoffName: TypeAlias = Literal["exponential", "linear", "constant"]
StrategyName: TypeAlias = Literal["steps", "epoch", "best", "last", "all"]


class BackoffType(StrEnum):
    """The growth of the retry delay with the attempts."""

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
    "blobs_unavailable",
    "command_retry",
)


@dataclass(frozen=True, slots=True)
class RetryDecision:
    """The decision about a failed attempt: a retry with its delay, or none, and the reason."""

    retry: bool
    delay_ms: int
    reason: str


class RetryPolicy(Record):
    """The retries of a failed job: how many, and after which delays.

    ``retryable_errors`` holds error codes or categories. ``max_attempts`` includes the first attempt.
    """

    max_attempts: Whole = Field(default=3, ge=1, le=10_000)
    backoff_type: BackoffType = Field(
        default=BackoffType.EXPONENTIAL, validation_alias=AliasChoices("backoff_type", "backoff")
    )
    initial_delay_ms: Whole = Field(
        default=1_000, ge=0, le=86_400_000, validation_alias=AliasChoices("initial_delay_ms", "base_delay_ms")
    )
    max_delay_ms: Whole = Field(default=60_000, ge=0, le=7 * 86_400_000)
    jitter: bool = True
    retryable_errors: tuple[str, ...] = DEFAULT_RETRYABLE

    if TYPE_CHECKING:
        # for type checkers: what the validators take, where they take more than the field holds
        def __init__(
            self,
            *,
            max_attempts: int = ...,
            backoff_type: BackoffType | BackoffName = ...,
            backoff: BackoffType | BackoffName = ...,
            initial_delay_ms: int = ...,
            base_delay_ms: int = ...,
            max_delay_ms: int = ...,
            jitter: bool = ...,
            retryable_errors: Sequence[str] = ...,
        ) -> None: ...

    def delay_ms(self, attempt: int, jitter: Callable[[], float]) -> int:
        """Return the delay after failed attempt ``attempt`` (from 1), at most ``max_delay_ms``.

        ``jitter`` returns a number in [0, 1). With jitter enabled, the delay is between half and all of the backoff
        ("equal jitter"), so that jobs that failed together are not retried together.
        """
        if self.backoff_type is BackoffType.EXPONENTIAL:
            delay = exponential_backoff(self.initial_delay_ms, self.max_delay_ms, max(attempt, 1) - 1)
        elif self.backoff_type is BackoffType.LINEAR:
            delay = min(self.initial_delay_ms * max(attempt, 1), self.max_delay_ms)
        else:
            delay = min(self.initial_delay_ms, self.max_delay_ms)
        return int(equal_jitter(delay, jitter)) if self.jitter else delay

    def decide(self, failure: Failure, attempt: int, jitter: Callable[[], float]) -> RetryDecision:
        """Decide whether a failed attempt is retried. No other code decides this."""
        if not failure.retryable:
            return RetryDecision(False, 0, f"{failure.code} is not retryable")
        if failure.code not in self.retryable_errors and failure.category not in self.retryable_errors:
            return RetryDecision(False, 0, f"the retry policy does not list {failure.code}")
        if attempt >= self.max_attempts:
            return RetryDecision(False, 0, f"attempt {attempt} of {self.max_attempts} was the last")
        delay = max(self.delay_ms(attempt, jitter), failure.retry_after_ms or 0)
        return RetryDecision(True, delay, f"{failure.code}: attempt {attempt + 1} of {self.max_attempts}")


class CheckpointStrategy(StrEnum):
    """The rule by which saved training states are kept. See ``CheckpointPolicy``."""

    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"
    LAST = "last"
    ALL = "all"


@dataclass(frozen=True, slots=True)
class StepFacts:
    """Facts about a finished optimizer step. ``step`` counts from 1."""

    step: int
    total_steps: int
    steps_per_epoch: int


@dataclass(frozen=True, slots=True)
class SavedCheckpoint:
    """The facts about a committed checkpoint that the policy compares."""

    name: str
    step: int
    metric: float | None = None
    promoted: bool = False
    ends_epoch: bool = False


TEN_YEARS_S = 315_360_000
LOSS = "loss"
"""The metric that every step has."""
EVAL_PREFIX = "eval."
"""The names of the metrics of evaluations begin with it."""
EVAL_LOSS = "eval.loss"
"""The metric that every evaluation on examples has."""
EVAL_REWARD = "eval.reward"
"""The mean reward of an evaluation on tasks."""


class CheckpointPolicy(Record):
    """The schedule of checkpoints, and the choice of those that are kept.

    Every strategy saves every ``save_every`` optimizer steps and after the last one, so that a recovery repeats at
    most ``save_every`` steps; ``epoch`` and ``all`` also save at the end of each epoch. The newest checkpoint is
    always kept. The strategy decides which others are: ``steps``, the ``keep_last`` newest; ``epoch``, the
    ``keep_last`` newest that end an epoch; ``best``, the ``keep_last`` best by metric; ``last``, none; ``all``, all
    of them. With ``save_best`` the best is kept too. ``ttl`` is the time to live at the service, in seconds; the
    final checkpoint has none.
    """

    strategy: CheckpointStrategy = CheckpointStrategy.STEPS
    save_every: Whole = Field(default=100, ge=1, le=1_000_000_000)
    keep_last: Whole = Field(default=5, ge=1, le=1_000_000)
    save_best: bool = True
    best_metric: str = Field(default=LOSS, min_length=1, max_length=200)
    best_mode: Literal["min", "max"] = "min"
    ttl: Whole | None = Field(default=None, ge=60, le=TEN_YEARS_S)

    if TYPE_CHECKING:
        # for type checkers: what the validators take, where they take more than the field holds
        def __init__(
            self,
            *,
            strategy: CheckpointStrategy | StrategyName = ...,
            save_every: int = ...,
            keep_last: int = ...,
            save_best: bool = ...,
            best_metric: str = ...,
            best_mode: Literal["min", "max"] = ...,
            ttl: int | None = ...,
        ) -> None: ...

    def should_save(self, facts: StepFacts) -> bool:
        """Return whether to save the state after this step."""
        if facts.step == facts.total_steps or facts.step % self.save_every == 0:
            return True
        saves_epochs = self.strategy in (CheckpointStrategy.EPOCH, CheckpointStrategy.ALL)
        return saves_epochs and facts.step % facts.steps_per_epoch == 0

    def is_better(self, metric: float | None, best: float | None) -> bool:
        """Return whether ``metric`` is better than ``best``. Any number is better than None or NaN; these never
        are."""
        if metric is None or math.isnan(metric):
            return False
        if best is None or math.isnan(best):
            return True
        return metric < best if self.best_mode == "min" else metric > best

    def best(self, saved: Sequence[SavedCheckpoint]) -> SavedCheckpoint | None:
        """Return the best checkpoint by metric; of equal ones, the oldest. None if no checkpoint has a metric."""
        best: SavedCheckpoint | None = None
        for checkpoint in sorted(saved, key=lambda item: item.step):
            if self.is_better(checkpoint.metric, best.metric if best else None):
                best = checkpoint
        return best

    def to_delete(self, saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
        """Return the checkpoints to delete, newest first: never the newest, the best (with ``save_best`` or
        strategy ``best``), or a promoted one."""
        newest_first = sorted(saved, key=lambda item: item.step, reverse=True)
        kept = {item.name for item in (*newest_first[:1], *self._kept_by_strategy(newest_first))}
        best = self.best(saved)
        if best is not None and self.save_best:
            kept.add(best.name)
        return [item for item in newest_first if item.name not in kept and not item.promoted]

    def _kept_by_strategy(self, newest_first: Sequence[SavedCheckpoint]) -> Sequence[SavedCheckpoint]:
        match self.strategy:
            case CheckpointStrategy.STEPS:
                return newest_first[: self.keep_last]
            case CheckpointStrategy.EPOCH:
                return [item for item in newest_first if item.ends_epoch][: self.keep_last]
            case CheckpointStrategy.BEST:
                return self._ranked(newest_first)[: self.keep_last]
            case CheckpointStrategy.LAST:
                return ()
            case CheckpointStrategy.ALL:
                return newest_first

    def _ranked(self, saved: Sequence[SavedCheckpoint]) -> list[SavedCheckpoint]:
        """Sort by metric, the best first, equal ones oldest first; then those without a metric, newest first."""
        sign = 1 if self.best_mode == "min" else -1
        with_metric = [item for item in saved if _is_number(item.metric)]
        without = [item for item in saved if not _is_number(item.metric)]
        return [
            *sorted(with_metric, key=lambda item: (sign * (item.metric or 0.0), item.step)),
            *sorted(without, key=lambda item: item.step, reverse=True),
        ]


def _is_number(metric: float | None) -> bool:
    return metric is not None and not math.isnan(metric)


@dataclass(frozen=True, slots=True)
class StopDecision:
    """The decision to stop a run: after ``step``, since ``best`` of step ``best_step`` stayed the best value."""

    step: int
    best_step: int
    best: float


class EarlyStopping(Record):
    """The condition for a training run to stop early: ``patience`` evaluations in a row whose ``metric`` is not
    better than the best before them by more than ``min_delta``. The evaluation at step 0 counts."""

    metric: str = Field(default=EVAL_LOSS, min_length=1, max_length=200)
    patience: Whole = Field(default=3, ge=1, le=1_000_000)
    min_delta: Real = Field(default=0.0, ge=0)
    mode: Literal["min", "max"] = "min"

    def stop(self, values: Sequence[tuple[int, float]]) -> StopDecision | None:
        """Return where the run stops, given the metric by step, in order; None if it goes on."""
        best: tuple[int, float] | None = None
        stale = 0
        for step, value in values:
            if best is None or self._improves(value, best[1]):
                best, stale = (step, value), 0
                continue
            stale += 1
            if stale >= self.patience:
                return StopDecision(step, *best)
        return None

    def may_stop(self, values: Sequence[tuple[int, float]], pending: int) -> bool:
        """Return whether one of the next ``pending`` evaluations may stop the run."""
        best: float | None = None
        stale = 0
        for _, value in values:
            improves = best is None or self._improves(value, best)
            best, stale = (value, 0) if improves else (best, stale + 1)
        # the first value is never worse than another
        return stale + pending - (best is None) >= self.patience

    def _improves(self, value: float, best: float) -> bool:
        return value < best - self.min_delta if self.mode == "min" else value > best + self.min_delta
