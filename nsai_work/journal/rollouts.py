"""The journal of rollouts: their records, and the protocol by which the training driver reads and writes them.

A turn is recorded when its sample is in, and a rollout when it ends. What is recorded is never sampled again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import Field

from crucible.token_sampler import SamplerRef
from crucible.values.record import Record
from crucible.values.scalars import Count, Instant


class RolloutStatus(StrEnum):
    """The end of a rollout: ``done`` with a reward, or ``failed`` for the environment, without one."""

    DONE = "done"
    FAILED = "failed"


class RolloutRecord(Record):
    """A rollout that has ended: member ``member`` of a group of a step, counted from 0.

    ``generation`` is the remote run whose owner sampled it, ``weights_step`` the number of optimizer steps in the
    weights that it was sampled from. ``session_id`` is the service's session of its recorded sequences. ``reason``
    says why it ended. ``turns`` and ``tokens`` count what was sampled. An ``evaluated`` one belongs to the
    evaluation of the weights after ``step``.
    """

    step: Count
    generation: Count = Field(ge=1)
    group: Count
    member: Count
    task: Count
    weights_step: Count
    session_id: str | None = None
    status: RolloutStatus
    reward: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict)
    reason: str
    turns: Count
    tokens: Count
    truncated: Count = 0
    evaluated: bool = False
    recorded_at: Instant | None = None


class StoredTurn(Record):
    """A turn of a rollout, compressed in ``data``. ``attempt`` counts from 0; it rises when the environment does
    not repeat itself, so that the turn could not stay."""

    step: Count
    generation: Count = Field(ge=1)
    group: Count
    member: Count
    attempt: Count
    turn: Count
    data: bytes
    evaluated: bool = False


class PolicyRecord(Record):
    """Sampling weights that a run has saved after a step, and the reference of the sampler that was opened on
    them."""

    step: Count
    generation: Count = Field(ge=1)
    path: str
    ref: SamplerRef | None = None


@dataclass(frozen=True, slots=True)
class RecordedRollouts:
    """The journal's rollouts of a step, or of its evaluation: those that ended, and the turns of all."""

    rollouts: Sequence[RolloutRecord]
    turns: Sequence[StoredTurn]


class RolloutJournal(Protocol):
    """The part of a job's journal that holds its rollouts. Every method raises LeaseLost once the owner is
    fenced."""

    async def rollouts(self, step: int, *, evaluated: bool = False) -> RecordedRollouts:
        """Return the rollouts of a step, of all generations; with ``evaluated`` those of its evaluation."""
        ...

    async def keep_turn(self, turn: StoredTurn) -> None:
        """Record a turn. One that is recorded already stays."""
        ...

    async def finish_rollouts(self, records: Sequence[RolloutRecord]) -> None:
        """Record that rollouts have ended, all of them or none. Those that are recorded already stay."""
        ...

    async def policies(self) -> Sequence[PolicyRecord]:
        """Return the sampling weights that are not deleted, by generation and step."""
        ...

    async def keep_policy(self, policy: PolicyRecord, last_seq_id: int) -> None:
        """Record saved sampling weights, and close the intent of their save. Idempotent by step and generation."""
        ...

    async def open_policy(self, policy: PolicyRecord) -> None:
        """Record the reference of the sampler that was opened on weights, before anything is sampled."""
        ...

    async def drop_policy(self, policy: PolicyRecord) -> None:
        """Forget sampling weights, which are no longer needed."""
        ...
