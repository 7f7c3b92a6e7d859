"""The store's implementation of the training driver's journal."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from crucible.training import Intent
from nsai_work.journal import (
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
from nsai_work.journal.rollouts import PolicyRecord, RecordedRollouts, RolloutRecord, StoredTurn
from nsai_work.store.async_store import AsyncStore
from nsai_work.store.journal import answers, checkpoints, evaluations, references, runs, steps
from nsai_work.store.journal.reinforcement import policies, rollouts
from nsai_work.store.journal.sinks import marks
from nsai_work.store.records import Claim
from nsai_work.telemetry import job_events


class StoreJournal:
    """``nsai_work.journal.Journal`` of one claim. Each call returns after its commit."""

    def __init__(self, store: AsyncStore, claim: Claim) -> None:
        self._store = store
        self._claim = claim
        # the newest step that was ever recorded: a record up to it repeats one
        self._newest_step = 0

    async def load(self) -> JournalSnapshot:
        snapshot = await self._store.run(runs.snapshot, self._claim)
        self._newest_step = max((snapshot.last_step, *snapshot.superseded))
        return snapshot

    async def begin_run(self, run: RemoteRun) -> None:
        await self._store.run(runs.begin_run, self._claim, run)
        job_events.training_counts.add("steps", "superseded", run.lost_steps)

    async def end_run(self, generation: int, reason: str) -> None:
        await self._store.run(runs.end_run, self._claim, generation, reason)

    async def set_resume(self, generation: int, resume: ResumeMode) -> None:
        await self._store.run(runs.set_resume, self._claim, generation, resume)

    async def intend(self, generation: int, intents: Sequence[Intent]) -> None:
        await self._store.run_merged(steps.intend_many, steps.NewIntents(self._claim, generation, intents))

    async def complete_step(
        self, record: StepRecord, last_seq_id: int, progress: Mapping[str, JsonValue] | None = None
    ) -> None:
        done = steps.StepDone(self._claim, record, last_seq_id, progress or {})
        await self._store.run_merged(steps.complete_steps, done)
        kind = "replayed" if record.step <= self._newest_step else "new"
        self._newest_step = max(self._newest_step, record.step)
        job_events.training_counts.add("steps", kind)

    async def complete_evaluation(self, record: EvaluationRecord, last_seq_id: int) -> None:
        await self._store.run(evaluations.complete_evaluation, self._claim, record, last_seq_id)

    async def close_intent(self, generation: int, last_seq_id: int) -> None:
        await self._store.run(steps.close_intent, self._claim, generation, last_seq_id)

    async def plan_checkpoint(
        self, checkpoint: CheckpointRecord, intent: Intent, *, ttl_s: int | None = None
    ) -> None:
        await self._store.run(checkpoints.plan_checkpoint, self._claim, checkpoint, intent, ttl_s=ttl_s)

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
        await self._store.run(
            checkpoints.commit_checkpoint,
            self._claim,
            name,
            path=path,
            last_seq_id=last_seq_id,
            size_bytes=size_bytes,
            sampler_path=sampler_path,
            metric=metric,
        )

    async def set_sampler_path(self, name: str, sampler_path: str) -> None:
        await self._store.run(checkpoints.set_sampler_path, self._claim, name, sampler_path)

    async def mark_checkpoint(
        self, name: str, status: CheckpointStatus, note: str | None = None
    ) -> CheckpointRecord:
        return await self._store.run(checkpoints.mark_checkpoint, self._claim, name, status, note)

    async def references(self) -> dict[int, bytes]:
        return await self._store.run(references.kept_references, self._claim)

    async def reference(self, number: int) -> bytes | None:
        return await self._store.run(references.kept_reference, self._claim, number)

    async def keep_reference(self, number: int, data: bytes) -> None:
        await self._store.run(references.keep_reference, self._claim, number, data)

    async def answers(self, after: int, limit: int) -> list[AnswerRow]:
        return await self._store.run(answers.kept_answers, self._claim, after, limit)

    async def keep_answer(self, answer: AnswerRow) -> None:
        await self._store.run_merged(answers.keep_answers, answers.NewAnswer(self._claim, answer))

    async def rollouts(self, step: int, *, evaluated: bool = False) -> RecordedRollouts:
        return await self._store.run(rollouts.recorded_rollouts, self._claim, step, evaluated=evaluated)

    async def keep_turn(self, turn: StoredTurn) -> None:
        await self._store.run_merged(rollouts.keep_rollouts, rollouts.NewRollouts(self._claim, turn=turn))

    async def finish_rollouts(self, records: Sequence[RolloutRecord]) -> None:
        await self._store.run_merged(rollouts.keep_rollouts, rollouts.NewRollouts(self._claim, ended=records))

    async def policies(self) -> Sequence[PolicyRecord]:
        return await self._store.run(policies.job_policies, self._claim)

    async def keep_policy(self, policy: PolicyRecord, last_seq_id: int) -> None:
        await self._store.run(policies.keep_policy, self._claim, policy, last_seq_id)

    async def open_policy(self, policy: PolicyRecord) -> None:
        await self._store.run(policies.open_policy, self._claim, policy)

    async def drop_policy(self, policy: PolicyRecord) -> None:
        await self._store.run(policies.drop_policy, self._claim, policy)

    async def sink_state(self, sink: str) -> SinkState:
        return await self._store.run(marks.sink_state, self._claim, sink)

    async def after_mark(
        self, mark: SinkMark, limit: int
    ) -> tuple[Sequence[StepRecord], Sequence[EvaluationRecord]]:
        return await self._store.run(marks.after_mark, self._claim, mark, limit)

    async def advance_sink(self, sink: str, mark: SinkMark) -> None:
        await self._store.run(marks.advance_sink, self._claim, sink, mark)

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        await self._store.run(runs.append_event, self._claim, name, data)
        job_events.log_entry(self._claim.job_id, name, data)

    async def events(self, name: str) -> list[dict[str, JsonValue]]:
        return await self._store.run(runs.events_of, self._claim, name)

    async def has_event(self, name: str) -> bool:
        return await self._store.run(runs.has_event, self._claim, name)
