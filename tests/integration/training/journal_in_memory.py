"""An in-memory journal that checks its contract: a call that breaks it fails at once."""

from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from crucible.errors import InvalidRequest
from crucible.training import Intent, IntentKind
from nsai_work.errors import LeaseLost
from nsai_work.journal import (
    AnswerRow,
    CheckpointRecord,
    CheckpointStatus,
    EvaluationRecord,
    JournalSnapshot,
    RemoteRun,
    ResumeMode,
    StepRecord,
)
from nsai_work.journal.rollouts import PolicyRecord, RecordedRollouts, RolloutRecord, StoredTurn


class MemoryStore:
    """The content of a journal, which outlives every owner."""

    def __init__(self) -> None:
        self.fence = 0
        self.runs: list[RemoteRun] = []
        self.steps: list[StepRecord] = []
        self.superseded: dict[int, StepRecord] = {}
        self.evaluations: list[EvaluationRecord] = []
        self.references: dict[int, bytes] = {}
        self.answers: dict[int, AnswerRow] = {}
        self.superseded_evaluations: dict[int, EvaluationRecord] = {}
        self.intents: dict[tuple[int, int], Intent] = {}
        self.closed: set[tuple[int, int]] = set()
        self.checkpoints: dict[str, CheckpointRecord] = {}
        self.events: list[tuple[str, dict[str, JsonValue]]] = []
        self.rollouts: dict[tuple[int, int, int, int], RolloutRecord] = {}
        self.turns: dict[tuple[int, int, int, int, int, int], StoredTurn] = {}
        self.evaluated_rollouts: dict[tuple[int, int, int, int], RolloutRecord] = {}
        self.evaluated_turns: dict[tuple[int, int, int, int, int, int], StoredTurn] = {}
        self.policies: dict[tuple[int, int], PolicyRecord] = {}

    def claim(self) -> "JournalInMemory":
        """A new owner; every earlier one is fenced off."""
        self.fence += 1
        return JournalInMemory(self, self.fence)

    @property
    def newest(self) -> int:
        """The newest step that counts; before the first, that in which the job began."""
        return (self.runs[0].from_step if self.runs else 0) + len(self.steps)

    def events_named(self, name: str) -> list[dict[str, JsonValue]]:
        """The data of all events of a name."""
        return [data for found, data in self.events if found == name]


class JournalInMemory:
    """The journal of one owner, fenced by a later ``claim``."""

    def __init__(self, journal: MemoryStore, fence: int) -> None:
        self.journal = journal
        self._fence = fence

    def _own(self) -> MemoryStore:
        if self._fence != self.journal.fence:
            raise LeaseLost("another owner has the job")
        return self.journal

    async def load(self) -> JournalSnapshot:
        journal = self._own()
        generation = journal.runs[-1].generation if journal.runs else 0
        mine = sorted(key for key in journal.intents if key[0] == generation)
        closed = max((key for key in mine if key in journal.closed), default=(generation, -1))
        return JournalSnapshot(
            runs=tuple(journal.runs),
            steps=tuple(journal.steps),
            superseded=dict(journal.superseded),
            open_intents=tuple(journal.intents[key] for key in mine if key > closed),
            checkpoints=tuple(journal.checkpoints.values()),
            last_seq_id=mine[-1][1] if mine else None,
            last_closed=journal.intents.get(closed),
            evaluations=tuple(journal.evaluations),
            superseded_evaluations=dict(journal.superseded_evaluations),
        )

    async def begin_run(self, run: RemoteRun) -> None:
        journal = self._own()
        assert run.generation == len(journal.runs) + 1
        assert all(earlier.end_reason is not None for earlier in journal.runs), "an earlier run was not fenced"
        begin = journal.runs[0].from_step if journal.runs else run.from_step
        assert begin <= run.from_step <= begin + len(journal.steps), "a restore must not leave a gap"
        for step in journal.steps[run.from_step - begin :]:
            journal.superseded[step.step] = step
        del journal.steps[run.from_step - begin :]
        first = 0 if run.restored_from is None else run.from_step + 1
        for record in [each for each in journal.evaluations if each.step >= first]:
            journal.superseded_evaluations[record.step] = record
            journal.evaluations.remove(record)
        journal.closed |= set(journal.intents)
        journal.runs.append(run)

    async def end_run(self, generation: int, reason: str) -> None:
        journal = self._own()
        assert generation == journal.runs[-1].generation
        journal.runs[-1] = journal.runs[-1].model_copy(update={"end_reason": reason})

    async def set_resume(self, generation: int, resume: ResumeMode) -> None:
        journal = self._own()
        run = journal.runs[generation - 1]
        assert (run.resume, resume) in (
            (ResumeMode.FRESH, ResumeMode.WARM),
            (ResumeMode.UNVERIFIED, ResumeMode.EXACT),
            (ResumeMode.UNVERIFIED, ResumeMode.COLD),
        )
        journal.runs[generation - 1] = run.model_copy(update={"resume": resume})

    async def intend(self, generation: int, intents: Sequence[Intent]) -> None:
        for intent in intents:
            self._enter(generation, intent)

    def _enter(self, generation: int, intent: Intent) -> None:
        journal = self._own()
        assert generation == journal.runs[-1].generation
        assert journal.runs[-1].end_reason is None, "a fenced run may intend nothing"
        key = (generation, intent.last_seq_id)
        if key in journal.intents:
            assert journal.intents[key] == intent
            return
        last = max((seq for made, seq in journal.intents if made == generation), default=None)
        expected = journal.runs[-1].first_seq_id if last is None else last + 1
        assert intent.first_seq_id == expected, "sequence numbers must have no gap"
        journal.intents[key] = intent

    async def complete_step(
        self, record: StepRecord, last_seq_id: int, progress: Mapping[str, JsonValue] | None = None
    ) -> None:
        journal = self._own()
        key = (record.generation, last_seq_id)
        if "skipped" not in record.metrics:
            assert journal.intents[key].step == record.step
            self._close(key)
        if record.step == journal.newest and journal.steps and journal.steps[-1].generation == record.generation:
            return
        assert record.step == journal.newest + 1, "steps must come in order"
        journal.steps.append(record)
        journal.events.append(("step", {"step": record.step, "loss": record.loss, **(progress or {})}))

    async def complete_evaluation(self, record: EvaluationRecord, last_seq_id: int) -> None:
        journal = self._own()
        if last_seq_id:
            assert journal.intents[record.generation, last_seq_id].step == record.step
            self._close((record.generation, last_seq_id))
        if journal.evaluations and journal.evaluations[-1].step == record.step:
            return
        assert record.step == journal.newest, "an evaluation is that of the newest step"
        assert not journal.evaluations or journal.evaluations[-1].step < record.step, "they must come in order"
        journal.evaluations.append(record)
        journal.events.append(("evaluation", record.model_dump(mode="json")))

    def _close(self, key: tuple[int, int]) -> None:
        journal = self.journal
        earlier = [
            other
            for other, intent in journal.intents.items()
            if other[0] == key[0] and other[1] < key[1] and intent.kind is not IntentKind.FORWARD
        ]
        assert all(other in journal.closed for other in earlier), "results must be recorded in order"
        journal.closed.add(key)

    async def close_intent(self, generation: int, last_seq_id: int) -> None:
        self._own()
        self._close((generation, last_seq_id))

    async def plan_checkpoint(
        self, checkpoint: CheckpointRecord, intent: Intent, *, ttl_s: int | None = None
    ) -> None:
        journal = self._own()
        assert checkpoint.status is CheckpointStatus.PENDING
        assert checkpoint.name == intent.name
        self._enter(checkpoint.generation, intent)
        journal.checkpoints.setdefault(checkpoint.name, checkpoint)

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
        journal = self._own()
        row = journal.checkpoints[name]
        assert row.status in (CheckpointStatus.PENDING, CheckpointStatus.COMMITTED)
        self._close((row.generation, last_seq_id))
        update = {
            "status": CheckpointStatus.COMMITTED,
            "path": path,
            "size_bytes": size_bytes,
            "sampler_path": sampler_path,
            "metric": metric,
        }
        journal.checkpoints[name] = row.model_copy(update=update)
        journal.events.append(("checkpoint.committed", {"name": name, "path": path, "step": row.step}))

    async def set_sampler_path(self, name: str, sampler_path: str) -> None:
        journal = self._own()
        assert journal.checkpoints[name].kept
        journal.checkpoints[name] = journal.checkpoints[name].model_copy(update={"sampler_path": sampler_path})

    async def mark_checkpoint(
        self, name: str, status: CheckpointStatus, note: str | None = None
    ) -> CheckpointRecord:
        journal = self._own()
        row = journal.checkpoints[name]
        if row.promoted and status is CheckpointStatus.DELETING:
            raise InvalidRequest.of("checkpoint", name, "it is promoted")
        journal.checkpoints[name] = row.model_copy(update={"status": status, "note": note or row.note})
        data: dict[str, JsonValue] = {"name": name, "step": row.step, "path": row.path, "reason": note}
        journal.events.append((f"checkpoint.{status}", data))
        return journal.checkpoints[name]

    async def references(self) -> dict[int, bytes]:
        return dict(self._own().references)

    async def answers(self, after: int, limit: int) -> list[AnswerRow]:
        return [self._own().answers[line] for line in sorted(self._own().answers) if line > after][:limit]

    async def keep_answer(self, answer: AnswerRow) -> None:
        self._own().answers.setdefault(answer.line, answer)

    async def reference(self, number: int) -> bytes | None:
        return self._own().references.get(number)

    async def keep_reference(self, number: int, data: bytes) -> None:
        self._own().references.setdefault(number, data)

    async def rollouts(self, step: int, *, evaluated: bool = False) -> RecordedRollouts:
        journal = self._own()
        known, turns = journal.rollouts, journal.turns
        if evaluated:
            known, turns = journal.evaluated_rollouts, journal.evaluated_turns
        ended = [record for key, record in sorted(known.items()) if key[0] == step]
        return RecordedRollouts(ended, [turn for _, turn in sorted(turns.items()) if turn.step == step])

    async def keep_turn(self, turn: StoredTurn) -> None:
        key = (turn.step, turn.group, turn.member, turn.generation, turn.turn, turn.attempt)
        journal = self._own()
        (journal.evaluated_turns if turn.evaluated else journal.turns).setdefault(key, turn)

    async def finish_rollouts(self, records: Sequence[RolloutRecord]) -> None:
        journal = self._own()
        for record in records:
            key = (record.step, record.group, record.member, record.generation)
            (journal.evaluated_rollouts if record.evaluated else journal.rollouts).setdefault(key, record)

    async def policies(self) -> Sequence[PolicyRecord]:
        return [policy for _, policy in sorted(self._own().policies.items())]

    async def keep_policy(self, policy: PolicyRecord, last_seq_id: int) -> None:
        journal = self._own()
        newest = journal.steps[-1].step if journal.steps else journal.runs[-1].from_step
        assert policy.step == newest, "weights are those of the newest step"
        journal.policies.setdefault((policy.generation, policy.step), policy)
        self._close((policy.generation, last_seq_id))

    async def open_policy(self, policy: PolicyRecord) -> None:
        assert policy.ref is not None
        self._own().policies[policy.generation, policy.step] = policy

    async def drop_policy(self, policy: PolicyRecord) -> None:
        self._own().policies.pop((policy.generation, policy.step), None)

    async def event(self, name: str, data: dict[str, JsonValue]) -> None:
        self._own().events.append((name, data))

    async def events(self, name: str) -> list[dict[str, JsonValue]]:
        return [data for found, data in self._own().events if found == name]

    async def has_event(self, name: str) -> bool:
        return any(found == name for found, _ in self._own().events)
