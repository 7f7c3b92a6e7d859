"""The policy of a recovery."""

from collections.abc import Callable
from typing import Any, Literal

from pydantic import Field, field_validator

from crucible.training import CheckpointRef
from crucible.values.durations import exponential_backoff
from crucible.values.record import Record
from crucible.values.scalars import Whole


class RecoveryPolicy(Record):
    """The policy of a recovery: the choice of the checkpoint, the number of attempts, the delays between them.

    ``checkpoint_strategy``: ``latest``, ``best_loss``, or the path of one specific checkpoint.
    ``on_recovery(old, new, checkpoint)`` and ``on_failure(run_id, reason)`` are called in the recovering process,
    awaited if they are async, and are not part of the policy's JSON. If one raises, the event ``callback_failed``
    reports it, and nothing else changes.
    """

    enabled: bool = False
    max_attempts: Whole = Field(default=3, ge=1, le=1000)
    backoff_ms: Whole = Field(default=5_000, ge=0, le=3_600_000)
    max_backoff_ms: Whole = Field(default=60_000, ge=0, le=86_400_000)
    checkpoint_strategy: str = "latest"
    restore_optimizer: bool = True
    poll_interval_ms: Whole = Field(default=30_000, ge=10, le=3_600_000)
    on_cold_optimizer: Literal["continue", "stop"] = "continue"
    on_repeated_corruption: Literal["stop", "skip_batch"] = "stop"
    on_recovery: Callable[[Any, Any, CheckpointRef], object] | None = Field(default=None, exclude=True, repr=False)
    on_failure: Callable[[str, object], object] | None = Field(default=None, exclude=True, repr=False)

    @field_validator("checkpoint_strategy")
    @classmethod
    def _known_strategy_or_path(cls, value: str) -> str:
        if value in ("latest", "best_loss") or _is_path(value):
            return value
        raise ValueError("allowed are latest, best_loss, or the path of a checkpoint (tinker://RUN/weights/NAME)")

    @property
    def names_checkpoint(self) -> bool:
        """``checkpoint_strategy`` is the path of a checkpoint."""
        return _is_path(self.checkpoint_strategy)

    def backoff_before(self, attempt: int) -> int:
        """Return the delay in milliseconds before ``attempt``, counted from 0: none before the first, then
        min(backoff * 2^(attempt-1), max)."""
        if attempt <= 0:
            return 0
        return exponential_backoff(self.backoff_ms, self.max_backoff_ms, attempt - 1)


def _is_path(text: str) -> bool:
    # a service's own form: as tinker://RUN/weights/NAME, or as the path of a file
    return "://" in text or text.startswith("/")
