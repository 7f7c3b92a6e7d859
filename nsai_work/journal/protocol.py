"""The protocol by which attempts read and write the journal of their job.

Every method is one transaction, fenced by the fencing token of its claim: if another owner has the job, nothing is
written and LeaseLost is raised. ``nsai_work.store.journal.adapter`` implements it.
"""

from collections.abc import Mapping, Sequence
from typing import Protocol

from pydantic import JsonValue

from crucible.training import Intent
from nsai_work.journal.records import (
    AnswerRow,
    CheckpointRecord,
    CheckpointStatus,
    EvaluationRecord,
    JournalSnapshot,
    RemoteRun,
    ResumeMode,
    SinkMark,
    SinkState,
    StepRecord,
)
from nsai_work.journal.rollouts import RolloutJournal


class Journal(RolloutJournal, Protocol):
    """The journal of a job, written by its current owner. Every method raises LeaseLost once the owner is
    fenced."""

    async def load(self) -> JournalSnapshot:
        """Return the journal's content."""
        ...

    async def begin_run(self, run: RemoteRun) -> None:
        """Add a remote run. Supersedes the steps and evaluations after ``run.from_step`` (all evaluations, with a
        run that starts anew), and closes the open intents of older runs, whose effects stay with those runs."""
        ...

    async def end_run(self, generation: int, reason: str) -> None:
        """Fence a remote run, with the reason."""
        ...

    async def set_resume(self, generation: int, resume: ResumeMode) -> None:
        """Update a run's resume mode, once the repeated steps have proven it."""
        ...

    async def intend(self, generation: int, intents: Sequence[Intent]) -> None:
        """Add intents before they are sent. Idempotent."""
        ...

    async def complete_step(
        self, record: StepRecord, last_seq_id: int, progress: Mapping[str, JsonValue] | None = None
    ) -> None:
        """Record a step's result and close its intent. Idempotent by step and generation. Emits ``step`` with the
        record and ``progress``."""
        ...

    async def complete_evaluation(self, record: EvaluationRecord, last_seq_id: int) -> None:
        """Record an evaluation, and close the intent of its last forward pass; 0 of an evaluation by rollouts,
        which has none. Idempotent by step and generation. Emits ``evaluation`` with the record."""
        ...

    async def close_intent(self, generation: int, last_seq_id: int) -> None:
        """Close the intent of a save that ends with ``last_seq_id``."""
        ...

    async def plan_checkpoint(
        self, checkpoint: CheckpointRecord, intent: Intent, *, ttl_s: int | None = None
    ) -> None:
        """First phase of a save: add the pending checkpoint and the intent. Idempotent by name. The times of the
        record are the journal's: when it is added, and its expiry ``ttl_s`` later."""
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
        """Second phase of a save, after verification: commit the checkpoint and close the intent. Emits
        ``checkpoint.committed``.

        ``metric`` is the metric of the checkpoint's step, unknown in the first phase.
        """
        ...

    async def set_sampler_path(self, name: str, sampler_path: str) -> None:
        """Record the path of a committed checkpoint's sampling weights."""
        ...

    async def mark_checkpoint(
        self, name: str, status: CheckpointStatus, note: str | None = None
    ) -> CheckpointRecord:
        """Set a checkpoint to deleting, deleted or lost, and return it. Emits ``checkpoint.<status>`` with its
        name, step and path, and ``note`` as the reason.

        Raises:
            InvalidRequest: a promoted checkpoint is to be deleted.
        """
        ...

    async def references(self) -> dict[int, bytes]:
        """Return the kept log-probabilities of a reference model, by number."""
        ...

    async def reference(self, number: int) -> bytes | None:
        """Return what is kept of a reference model or a teacher under a number; None if nothing is."""
        ...

    async def keep_reference(self, number: int, data: bytes) -> None:
        """Keep log-probabilities of a reference model or a teacher, compressed. Those kept already stay."""
        ...

    async def answers(self, after: int, limit: int) -> list[AnswerRow]:
        """Return up to ``limit`` answers of an inference batch, those of the lines after ``after``, in order."""
        ...

    async def keep_answer(self, answer: AnswerRow) -> None:
        """Keep an answer, and count it as progress of the job. An answer that is kept already stays."""
        ...

    async def sink_state(self, sink: str) -> SinkState:
        """Return how far a sink is, and what decides how it goes on."""
        ...

    async def after_mark(
        self, mark: SinkMark, limit: int
    ) -> tuple[Sequence[StepRecord], Sequence[EvaluationRecord]]:
        """Return the first current steps and evaluations that a sink with this mark lacks, at most ``limit`` of
        each, of the generations up to the mark's."""
        ...

    async def advance_sink(self, sink: str, mark: SinkMark) -> None:
        """Record how far a sink is."""
        ...

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        """Append an event to the job's log."""
        ...

    async def events(self, name: str) -> list[dict[str, JsonValue]]:
        """Return the data of the events of this name, of all attempts, in order."""
        ...

    async def has_event(self, name: str) -> bool:
        """Return whether the job's log has an event of this name, of any attempt."""
        ...
