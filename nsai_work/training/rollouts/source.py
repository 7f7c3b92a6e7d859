"""The batch source of reinforcement learning: each step's rollouts, from the journal or sampled now."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Final

from pydantic import JsonValue

from crucible.errors import EnvironmentFailed
from crucible.training import LiveRun, StepResult
from nsai_work.job import Job
from nsai_work.journal import Journal, RemoteRun
from nsai_work.journal.rollouts import PolicyRecord, RecordedRollouts, RolloutRecord, RolloutStatus
from nsai_work.payloads import ReinforcementStep
from nsai_work.training.plan import Plan
from nsai_work.training.rollouts.episodes.groups import (
    EndedRollout,
    GroupSampler,
    GroupTask,
    gathered,
    recorded_members,
)
from nsai_work.training.rollouts.episodes.place import RolloutPlace
from nsai_work.training.rollouts.episodes.turns import Turn
from nsai_work.training.rollouts.examples import (
    GroupSelection,
    TrainedExample,
    divided,
    examples_of,
    selected,
)
from nsai_work.training.rollouts.metrics import drift, rollout_metrics
from nsai_work.training.rollouts.policies import PolicySamplers
from nsai_work.training.rollouts.prompts import PromptPlan
from nsai_work.training.rollouts.reference import RolloutReference
from nsai_work.training.rollouts.task_evaluation import PolicyEvaluation
from nsai_work.training.rollouts.teacher import RolloutTeacher
from nsai_work.training.sources.batches import BatchSource, StepBatch, batch_indexes

REUSED: Final = "training.rollouts_reused"
FAILED: Final = "training.rollouts_failed"
_SHOWN: Final = 3


@dataclass(slots=True)
class _Round:
    """Steps that share rollouts. ``sampled``: all of these are in the journal."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    sampled: bool = False


class RolloutSource(BatchSource):
    """The rollouts of each step as a batch. What the journal has is not sampled again.

    The steps of a round share rollouts, which the journal has under its first step. They come from the weights of
    the step before it, or of ``steps_ahead`` rounds earlier, so that which weights a group is sampled from follows
    from the step alone. ``tasks``: how many there are; None if they are endless. ``order`` is that of the prompts
    of several files. Its end closes the ``environments``.
    """

    def __init__(
        self,
        job: Job,
        payload: ReinforcementStep,
        plan: Plan,
        tasks: int | None,
        environments: AsyncExitStack,
        runner: GroupSampler,
        policies: PolicySamplers,
        journal: Journal,
        *,
        evaluation: PolicyEvaluation | None = None,
        reference: RolloutReference | None = None,
        order: PromptPlan | None = None,
        teacher: RolloutTeacher | None = None,
    ) -> None:
        self._job_id = job.id
        self._payload = payload
        self._plan = plan
        self._tasks = tasks
        self._environments = environments
        self._journal = journal
        self._policies = policies
        self._runner = runner
        self._evaluation = evaluation
        self._reference = reference
        self._order = order
        self._teacher = teacher
        self._generation = 0
        self._rounds: dict[int, _Round] = {}
        self._told: set[int] = set()
        if evaluation is not None:
            evaluation.released = self._release

    @property
    def examples(self) -> int:
        return self._plan.examples

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        self._generation = record.generation
        self._rounds.clear()
        self._told.clear()
        if self._evaluation is not None:
            await self._evaluation.connect(record.generation)
        await self._policies.connect(run, record)

    def policy_saved(self, policy: PolicyRecord) -> None:
        self._policies.saved(policy)

    async def batch(self, step: int) -> StepBatch:
        payload = self._payload
        part = (step - 1) % payload.substeps
        first = step - part
        # the steps of a round are made side by side, and sample once
        current = self._rounds.setdefault(first, _Round())
        async with current.lock:
            groups = await self._groups(first)
        current.sampled = True
        await self._release()
        selection = selected(groups, payload)
        if not selection.groups:
            raise EnvironmentFailed(_why(groups, step), details={"step": step})
        examples, tasks = self._examples(selection)
        metrics = rollout_metrics(groups, selection, step - 1 - self._weights_step(step))
        if self._reference is not None:
            sources = [0 if self._order is None else self._order.source(task) for task in tasks]
            examples, distances = await self._reference.penalize(first, examples, sources)
            metrics |= distances
        if self._teacher is not None:
            examples = await self._teacher.soften(first, examples, tasks)
        trained = divided(examples, payload.substeps, part)
        metrics["trained_tokens"] = float(sum(example.trained_tokens for example in trained))
        datums = [example.datum for example in trained]
        return StepBatch(step, self._plan.epoch(step), self._plan.cursor(step), datums, metrics=metrics)

    def _examples(self, selection: GroupSelection) -> tuple[list[TrainedExample], list[int]]:
        """The examples of a step, and the task of each."""
        examples: list[TrainedExample] = []
        tasks: list[int] = []
        for members, advantages in selection.groups:
            for member, advantage in zip(members, advantages, strict=True):
                made = list(examples_of(member, advantage, self._payload.sampled_loss))
                examples += made
                tasks += [member.record.task] * len(made)
        return examples, tasks

    def step_metrics(self, batch: StepBatch, result: StepResult) -> Mapping[str, float]:
        if self._teacher is not None:
            # there is nothing sampled that the logprobs of a teacher's tokens could be compared with
            return batch.metrics
        trained = {} if result.logprobs is None else drift(batch.datums, result.logprobs)
        return {**batch.metrics, **trained}

    async def result_fields(self) -> dict[str, JsonValue]:
        reused = await self._journal.events(REUSED)
        counts: dict[str, JsonValue] = {
            name: sum(int(str(event.get(field, 0))) for event in reused)
            for name, field in (("rollouts_reused", "rollouts"), ("turns_reused", "turns"))
        }
        snapshot = await self._journal.load()
        # the steps of a round have the metrics of all its rollouts
        of_rounds = [step.metrics for step in snapshot.steps if (step.step - 1) % self._payload.substeps == 0]
        counts["rollouts_failed"] = int(sum(metrics.get("rollouts_failed", 0.0) for metrics in of_rounds))
        if self._payload.early_stopping is None:
            return counts
        beyond = await self._beyond_the_end(snapshot.last_step)
        unused = {name: sum(len(getattr(each, name)) for each in beyond) for name in ("rollouts", "turns")}
        return counts | {f"{name}_unused": count for name, count in unused.items()}

    async def finished(self) -> None:
        await self._policies.release(self._policies.known())

    async def close(self) -> None:
        async with self._environments:
            if self._evaluation is not None:
                await self._evaluation.stop()
            await self._policies.close()
            if self._reference is not None:
                await self._reference.close()
            if self._teacher is not None:
                await self._teacher.close()

    async def _beyond_the_end(self, last: int) -> list[RecordedRollouts]:
        """The rollouts of the rounds that were sampled ahead of an end that came early."""
        per_round = self._payload.substeps
        first = -(-last // per_round) * per_round + 1
        return [
            await self._journal.rollouts(first + ahead * per_round)
            for ahead in range(self._payload.steps_ahead + 1)
        ]

    def _weights_step(self, step: int) -> int:
        per_round = self._payload.substeps
        # a job that goes on with another has no weights of the steps before its own
        start = self._payload.continue_from
        oldest = 0 if start is None else start.step
        return max(oldest, ((step - 1) // per_round - self._payload.steps_ahead) * per_round)

    def _task_numbers(self, step: int) -> Sequence[int]:
        if self._tasks is not None and self._order is None:
            return batch_indexes(self._plan, step)
        first = (step - 1) // self._payload.substeps * self._payload.groups_per_step
        if self._order is not None:
            return self._order.tasks(first, self._payload.groups_per_step)
        return range(first, first + self._payload.groups_per_step)

    async def _groups(self, step: int) -> list[list[EndedRollout]]:
        recorded = await self._journal.rollouts(step)
        tasks = [
            self._group_task(step, group, task, recorded) for group, task in enumerate(self._task_numbers(step))
        ]
        if step not in self._told:
            self._told.add(step)
            await self._report_reuse(step, recorded, tasks)
        size = self._payload.group_size
        if all(len(task.ended) == size for task in tasks):
            return [[task.ended[member] for member in range(size)] for task in tasks]
        sampler = await self._policies.sampler(self._weights_step(step))
        groups = await gathered([self._runner.run(task, sampler) for task in tasks])
        await self._report_failures(step, groups)
        return groups

    def _group_task(self, step: int, group: int, task: int, recorded: RecordedRollouts) -> GroupTask:
        ended, begun = recorded_members(recorded, group, self._only_generation(step))
        place = RolloutPlace(self._job_id, self._payload.seed, self._generation, step, group, 0)
        return GroupTask(place, task, self._weights_step(step), ended, begun)

    def _only_generation(self, step: int) -> int | None:
        """The run whose rollouts of a step are kept, if those of earlier runs are sampled anew."""
        # what is dropped was complete before its weights were deleted
        drops = self._payload.on_stale == "drop" and self._policies.has(self._weights_step(step))
        return self._generation if self._payload.binds_sequences or drops else None

    async def _report_reuse(self, step: int, recorded: RecordedRollouts, tasks: Sequence[GroupTask]) -> None:
        """Say what of a step that an earlier owner began is kept, and what a lost session has cost."""
        if not recorded.rollouts and not recorded.turns:
            return
        kept = sum(len(task.ended) for task in tasks)
        turns = sum(len(turns) for task in tasks for turns, _ in task.begun.values())
        lost = len({(one.group, one.member) for one in recorded.rollouts}) - kept
        data: dict[str, JsonValue] = {"step": step, "rollouts": kept, "turns": turns, "sampled_anew": lost}
        data["turns_anew"] = 0
        if self._only_generation(step) is not None:
            members = [recorded_members(recorded, task.place.group) for task in tasks]
            data["turns_anew"] = sum(map(_turns_of, members)) - sum(_turns_of((t.ended, t.begun)) for t in tasks)
        await self._journal.event(REUSED, data)

    async def _report_failures(self, step: int, groups: Sequence[Sequence[EndedRollout]]) -> None:
        """Say once for a job that rollouts fail, and why; the metrics of each step count them."""
        records = [member.record for group in groups for member in group]
        failed = [record for record in records if record.status is RolloutStatus.FAILED]
        if failed and not await self._journal.has_event(FAILED):
            data: dict[str, JsonValue] = {"step": step, "rollouts": len(failed), "of": len(records)}
            await self._journal.event(FAILED, {**data, "reason": failed[0].reason})

    async def _release(self) -> None:
        """Delete the weights that no coming step is sampled from, and no evaluation: what was to be sampled from
        them is in the journal."""
        if not self._rounds:
            return
        # a later round may be in before an earlier one
        open_rounds = [first for first, each in self._rounds.items() if not each.sampled]
        first = min(open_rounds, default=max(self._rounds) + self._payload.substeps)
        self._rounds = {
            each: found for each, found in self._rounds.items() if each + self._payload.substeps >= first
        }
        held = self._evaluation.holds if self._evaluation is not None else lambda step: False
        needed = self._weights_step(first)
        await self._policies.release([step for step in self._policies.known() if step < needed and not held(step)])


def _turns_of(
    members: tuple[Mapping[int, EndedRollout], Mapping[int, tuple[list[Turn], int]]],
) -> int:
    """The number of turns of the members of a group that have ended, and of those that are under way."""
    ended, begun = members
    return sum(len(each.turns) for each in ended.values()) + sum(len(turns) for turns, _ in begun.values())


def _why(groups: Sequence[Sequence[EndedRollout]], step: int) -> str:
    records: list[RolloutRecord] = [member.record for group in groups for member in group]
    ends = {
        "failed": [record for record in records if record.status is RolloutStatus.FAILED],
        "ended before an answer": [
            record for record in records if record.status is RolloutStatus.DONE and not record.turns
        ],
    }
    parts = [
        f"{len(ended)} of {len(records)} rollouts {end}: "
        + "; ".join(list(dict.fromkeys(record.reason for record in ended))[:_SHOWN])
        for end, ended in ends.items()
        if ended
    ]
    return f"no group of step {step} is left to train on: {', '.join(parts)}"
