"""What the training driver writes down, and what a later owner finds: the run journal.

Every method is one transaction, fenced by the token of the claim it was made for: when another owner has the job,
nothing is written and LeaseLost is raised. The store implements this (nsai_work/store/journal/adapter.py).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import AwareDatetime, Field, JsonValue

from crucible.record import Record
from crucible.training import Intent, RunRef


class ResumeMode(StrEnum):
    """How the newest remote run came to hold the job's state.

    ``fresh``: made new, at step 0. ``warm``: the same live model, taken over. ``exact``: restored, and shown equal
    by the steps that ran again. ``unverified``: restored, too few steps ran again to compare. ``cold``: restored,
    but the repeated steps differ: the optimizer (or even the weights) did not come back.
    """

    FRESH = "fresh"
    WARM = "warm"
    EXACT = "exact"
    UNVERIFIED = "unverified"
    COLD = "cold"


class RemoteRun(Record):
    """One remote run in the lineage of a job. ``generation`` counts from 1; ``from_step`` optimizer steps were in
    the state it began with; ``first_seq_id`` is the first sequence number that the driver's own operations use
    (a backend may have spent some on restoring or on finding out what the service can do)."""

    generation: int = Field(ge=1)
    ref: RunRef
    from_step: int = Field(ge=0)
    resume: ResumeMode
    restored_from: str | None = None
    end_reason: str | None = None
    first_seq_id: int = Field(default=1, ge=0)


class StepRecord(Record):
    """One optimizer step that counts. ``loss`` is the weighted mean in nats per token; ``epoch`` is the pass over
    the data it belongs to, from 0."""

    step: int = Field(ge=1)
    epoch: int = Field(ge=0)
    loss: float
    tokens: int = Field(ge=0)
    learning_rate: float
    generation: int = Field(ge=1)
    metrics: dict[str, float] = Field(default_factory=dict)
    recorded_at: AwareDatetime | None = None


class CheckpointStatus(StrEnum):
    """Pending: a save may be under way. Committed: verified, a recovery may use it. Lost: it failed a check."""

    PENDING = "pending"
    COMMITTED = "committed"
    DELETING = "deleting"
    DELETED = "deleted"
    LOST = "lost"


class CheckpointRecord(Record):
    """A checkpoint of a job. ``name`` carries the generation; ``kept`` is false once the policy has let it go."""

    name: str
    step: int = Field(ge=0)
    generation: int = Field(ge=1)
    status: CheckpointStatus = CheckpointStatus.PENDING
    path: str | None = None
    sampler_path: str | None = None
    metric: float | None = None
    promoted: bool = False
    final: bool = False
    size_bytes: int | None = None
    created_at: AwareDatetime | None = None
    expires_at: AwareDatetime | None = None
    note: str | None = None

    @property
    def kept(self) -> bool:
        """Whether it is there and meant to stay."""
        return self.status is CheckpointStatus.COMMITTED


@dataclass(frozen=True, slots=True)
class JournalSnapshot:
    """All that a new owner needs to go on.

    ``steps`` are those that count, in order, without gaps from 1. ``superseded`` holds for each step number the
    newest record that was superseded (what a repeated step is compared with). ``open_intents`` are the operations
    of the newest run whose result was never recorded, in order of sequence number. ``last_seq_id`` is the newest
    sequence number ever journaled for the newest run, open or closed; None before the first.
    """

    runs: Sequence[RemoteRun]
    steps: Sequence[StepRecord]
    superseded: dict[int, StepRecord]
    open_intents: Sequence[Intent]
    checkpoints: Sequence[CheckpointRecord]
    last_seq_id: int | None = None

    @property
    def run(self) -> RemoteRun | None:
        """The newest remote run."""
        return self.runs[-1] if self.runs else None

    @property
    def last_step(self) -> int:
        """The newest step that counts; 0 before the first."""
        return self.steps[-1].step if self.steps else 0


class Journal(Protocol):
    """The journal of one job, as its present owner sees it. All methods raise LeaseLost when fenced off."""

    async def load(self) -> JournalSnapshot:
        """Everything written so far."""
        ...

    async def begin_run(self, run: RemoteRun) -> None:
        """Enter a new remote run. Steps after ``run.from_step`` are superseded, open intents of older runs are
        closed (their effect stays with a run that no longer counts), in one transaction."""
        ...

    async def end_run(self, generation: int, reason: str) -> None:
        """Fence a remote run: say why it no longer counts."""
        ...

    async def set_resume(self, generation: int, resume: ResumeMode) -> None:
        """Correct how a run resumed once the repeated steps have shown it."""
        ...

    async def intend(self, generation: int, intents: Sequence[Intent]) -> None:
        """Journal what is about to be sent. Entering an intent that is there already changes nothing."""
        ...

    async def complete_step(
        self, record: StepRecord, last_seq_id: int, progress: Mapping[str, JsonValue] | None = None
    ) -> None:
        """Record a step's result and close its intent. Recording the same step of the same generation twice
        changes nothing. Emits ``step``: the record, and what ``progress`` adds."""
        ...

    async def close_intent(self, generation: int, last_seq_id: int) -> None:
        """Close the intent of a save."""
        ...

    async def plan_checkpoint(self, checkpoint: CheckpointRecord, intent: Intent) -> None:
        """First phase of a save: the pending row and the intent, in one transaction. Idempotent by name."""
        ...

    async def commit_checkpoint(
        self,
        name: str,
        *,
        path: str,
        last_seq_id: int,
        size_bytes: int | None = None,
        sampler_path: str | None = None,
        metric: float | None = None,
    ) -> None:
        """Second phase: the save is there and verified. Closes the intent. Emits ``checkpoint.committed``.

        ``metric``, when given, is that of its step: saves are sent before their step's result is known.
        """
        ...

    async def set_sampler_path(self, name: str, sampler_path: str) -> None:
        """Say where the sampling weights of a committed checkpoint lie."""
        ...

    async def mark_checkpoint(self, name: str, status: CheckpointStatus, note: str | None = None) -> None:
        """Move a checkpoint to deleting, deleted or lost. Deleting a promoted one raises InvalidRequest. Emits
        ``checkpoint.<status>`` with its name, step and path, and the note as the reason."""
        ...

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        """Append an event to the job's log."""
        ...
