"""The batch source of reinforcement learning: each step's rollouts, from the journal or sampled now."""

from collections.abc import Mapping, Sequence
from contextlib import suppress

from pydantic import JsonValue

from crucible.backend import TrainingBackend
from crucible.environments import Environment
from crucible.errors import EnvironmentFailed
from crucible.rendering.tokenizer import Tokenizer
from crucible.training import LiveRun, StepResult
from nsai_work.job import Job
from nsai_work.journal import Journal, RemoteRun
from nsai_work.payloads import ReinforcementStep
from nsai_work.rollout_journal import PolicyRecord, RecordedRollouts, RolloutRecord, RolloutStatus
from nsai_work.training.plan import Plan
from nsai_work.training.rollouts.environment_calls import EpisodeBroken, called
from nsai_work.training.rollouts.examples import datums, selected
from nsai_work.training.rollouts.groups import (
    CLOSE_WITHIN_S,
    EndedRollout,
    GroupSampler,
    GroupTask,
    gathered,
    recorded_members,
)
from nsai_work.training.rollouts.metrics import drift, rollout_metrics
from nsai_work.training.rollouts.policies import PolicySamplers
from nsai_work.training.rollouts.rollout import RolloutPlace, RolloutSettings
from nsai_work.training.sources.batches import BatchSource, StepBatch, batch_indexes

_SHOWN = 3


class RolloutSource(BatchSource):
    """The rollouts of each step as a batch. What the journal has is not sampled again.

    A step's rollouts come from the weights of the step before it, or of ``steps_ahead`` steps earlier, so that
    which weights a group is sampled from follows from the step alone.
    """

    def __init__(
        self,
        job: Job,
        payload: ReinforcementStep,
        plan: Plan,
        environment: Environment,
        tasks: int | None,
        tokenizer: Tokenizer,
        backend: TrainingBackend,
        journal: Journal,
        *,
        context: int,
    ) -> None:
        self._job_id = job.id
        self._payload = payload
        self._plan = plan
        self._environment = environment
        self._tasks = tasks
        self._journal = journal
        self._policies = PolicySamplers(journal, backend, records_sequences=payload.binds_sequences)
        rules = RolloutSettings(payload.sampling, tokenizer, context, journal.keep_turn)
        self._runner = GroupSampler(environment, rules, journal, payload.group_size)
        self._generation = 0

    @property
    def examples(self) -> int:
        return self._plan.examples

    async def connect(self, run: LiveRun, record: RemoteRun) -> None:
        self._generation = record.generation
        await self._policies.connect(run, record)

    def sampler_saved(self, step: int, path: str) -> None:
        self._policies.saved(PolicyRecord(step=step, generation=self._generation, path=path))

    async def batch(self, step: int) -> StepBatch:
        groups = await self._groups(step)
        await self._release(step)
        selection = selected(groups, self._payload)
        if not selection.groups:
            raise EnvironmentFailed(_why(groups, step), details={"step": step})
        loss_fn = self._payload.loss_fn
        examples = [
            datum
            for members, advantages in selection.groups
            for member, advantage in zip(members, advantages, strict=True)
            for datum in datums(member, advantage, loss_fn)
        ]
        metrics = rollout_metrics(groups, selection, step - 1 - self._weights_step(step))
        return StepBatch(step, self._plan.epoch(step), self._plan.cursor(step), examples, metrics=metrics)

    def step_metrics(self, batch: StepBatch, result: StepResult) -> Mapping[str, float]:
        trained = {} if result.logprobs is None else drift(batch.datums, result.logprobs)
        return {**batch.metrics, **trained}

    async def close(self) -> None:
        await self._policies.close()
        # what an environment cannot release is its own matter: the run's outcome stands
        with suppress(EpisodeBroken):
            await called(self._environment.close, CLOSE_WITHIN_S, "its end may")

    def _weights_step(self, step: int) -> int:
        return max(0, step - 1 - self._payload.steps_ahead)

    def _task_numbers(self, step: int) -> Sequence[int]:
        if self._tasks is not None:
            return batch_indexes(self._plan, step)
        first = (step - 1) * self._payload.groups_per_step
        return range(first, first + self._payload.groups_per_step)

    async def _groups(self, step: int) -> list[list[EndedRollout]]:
        recorded = await self._journal.rollouts(step)
        tasks = [
            self._group_task(step, group, task, recorded) for group, task in enumerate(self._task_numbers(step))
        ]
        size = self._payload.group_size
        if all(len(task.ended) == size for task in tasks):
            return [[task.ended[member] for member in range(size)] for task in tasks]
        sampler = await self._policies.sampler(self._weights_step(step))
        await self._report_reuse(step, recorded, tasks)
        return await gathered([self._runner.run(task, sampler) for task in tasks])

    def _group_task(self, step: int, group: int, task: int, recorded: RecordedRollouts) -> GroupTask:
        generation = self._generation if self._payload.binds_sequences else None
        ended, begun = recorded_members(recorded, group, generation)
        place = RolloutPlace(self._job_id, self._payload.seed, self._generation, step, group, 0)
        return GroupTask(place, task, self._weights_step(step), ended, begun)

    async def _report_reuse(self, step: int, recorded: RecordedRollouts, tasks: Sequence[GroupTask]) -> None:
        """Say what of a step that an earlier owner began is kept, and what a lost session has cost."""
        if not recorded.rollouts and not recorded.turns:
            return
        kept = sum(len(task.ended) for task in tasks)
        turns = sum(len(turns) for task in tasks for turns, _ in task.begun.values())
        lost = len({(one.group, one.member) for one in recorded.rollouts}) - kept
        data: dict[str, JsonValue] = {"step": step, "rollouts": kept, "turns": turns, "sampled_anew": lost}
        await self._journal.event("training.rollouts_reused", data)

    async def _release(self, step: int) -> None:
        """Delete the weights that no coming step is sampled from: all rollouts of this step are in the journal."""
        needed = self._weights_step(step + 1)
        await self._policies.release([known for known in self._policies.known() if known < needed])


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
