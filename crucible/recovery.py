"""Recovery of a training run: the policy, the request, what is seen on the way, and the outcome."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Protocol

from pydantic import Field, JsonValue, field_validator

from crucible.record import Record
from crucible.training import CheckpointRef, LiveRun, RunRef, RunSpec


class RecoveryPolicy(Record):
    """How a run that failed is brought back.

    ``checkpoint_strategy``: ``latest``, ``best_loss``, or the path of one specific checkpoint.
    ``on_recovery(old, new, checkpoint)`` and ``on_failure(run_id, reason)`` are called in the recovering
    process and are not part of the policy's JSON.
    """

    enabled: bool = False
    max_attempts: int = Field(default=3, ge=1, le=1000)
    backoff_ms: int = Field(default=5_000, ge=0, le=3_600_000)
    max_backoff_ms: int = Field(default=60_000, ge=0, le=86_400_000)
    checkpoint_strategy: str = "latest"
    restore_optimizer: bool = True
    poll_interval_ms: int = Field(default=30_000, ge=10, le=3_600_000)
    on_cold_optimizer: Literal["continue", "stop"] = "continue"
    on_repeated_corruption: Literal["stop", "skip_batch"] = "stop"
    on_recovery: Callable[[Any, Any, CheckpointRef], object] | None = Field(default=None, exclude=True, repr=False)
    on_failure: Callable[[str, object], object] | None = Field(default=None, exclude=True, repr=False)

    @field_validator("checkpoint_strategy")
    @classmethod
    def _known_strategy_or_path(cls, value: str) -> str:
        if value in ("latest", "best_loss") or "://" in value:
            return value
        raise ValueError("allowed are latest, best_loss, or the path of a checkpoint (tinker://RUN/weights/NAME)")

    def backoff_before(self, attempt: int) -> int:
        """Milliseconds before ``attempt``, from 0: nothing, then min(backoff * 2^(attempt-1), max)."""
        if attempt <= 0:
            return 0
        return int(min(self.backoff_ms * 2 ** min(attempt - 1, 40), self.max_backoff_ms))


class RecoveryEventName(StrEnum):
    """What is seen on the way; a backend prefixes its own name (``tinkex.recovery.detected``)."""

    DETECTED = "detected"
    STARTED = "started"
    CHECKPOINT_SELECTED = "checkpoint_selected"
    CHECKPOINT_REJECTED = "checkpoint_rejected"
    CLIENT_CREATED = "client_created"
    COMPLETED = "completed"
    FAILED = "failed"
    EXHAUSTED = "exhausted"
    POLL_ERROR = "poll_error"


class RecoveryEvent(Record):
    """One thing that happened: ``name`` is the full event name."""

    name: str
    run_id: str
    details: dict[str, JsonValue] = Field(default_factory=dict)


class RecoveryObserver(Protocol):
    """Gets every event as it happens. It must not raise."""

    def __call__(self, event: RecoveryEvent, /) -> Awaitable[None] | None: ...


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """What is to be recovered. ``candidates`` are the caller's verified checkpoints, newest first;
    when empty, the service is asked for its own."""

    failed: RunRef
    spec: RunSpec
    reason: str
    policy: RecoveryPolicy
    candidates: tuple[CheckpointRef, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveredRun:
    """A new remote run holding the state of ``checkpoint``.

    ``optimizer_requested`` says what was asked of the service; whether the optimizer really came back is for
    the caller to prove by the repeated steps.
    """

    run: LiveRun
    checkpoint: CheckpointRef
    optimizer_requested: bool
