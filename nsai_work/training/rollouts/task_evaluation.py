"""Evaluation of a run on tasks: rollouts of the weights after a step, in the background of its operations."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from crucible.environments import Environment
from nsai_work.journal import EvaluationRecord, Journal
from nsai_work.policies import EVAL_PREFIX
from nsai_work.training.evaluation import TaskEvaluation
from nsai_work.training.rollouts.episodes.groups import (
    EndedRollout,
    GroupSampler,
    GroupTask,
    gathered,
    recorded_members,
)
from nsai_work.training.rollouts.episodes.place import RolloutPlace
from nsai_work.training.rollouts.metrics import evaluation_metrics
from nsai_work.training.rollouts.policies import PolicySamplers


@dataclass(frozen=True, slots=True)
class OpenedTasks:
    """An opened set of tasks: ``count`` tasks of an environment, each answered ``samples`` times by ``runner``."""

    name: str
    environment: Environment
    count: int
    samples: int
    runner: GroupSampler


class PolicyEvaluation(TaskEvaluation):
    """Evaluations of a job on ``sets`` of tasks, on the weights of its ``policies``. What the journal has is not
    sampled again. ``released`` is awaited when the weights of a step are no longer needed here."""

    def __init__(
        self,
        sets: Sequence[OpenedTasks],
        policies: PolicySamplers,
        journal: Journal,
        *,
        job_id: str,
        seed: int,
        every: int,
        last_step: int,
    ) -> None:
        self.sets = sets
        self._policies = policies
        self._journal = journal
        self._job_id = job_id
        self._seed = seed
        self._every = every
        self._last_step = last_step
        self._generation = 0
        self._running: dict[int, asyncio.Task[EvaluationRecord]] = {}
        self._done: set[int] = set()
        self.released: Callable[[], Awaitable[None]] | None = None

    def begin(self, step: int) -> None:
        self._begin(step)

    def skip(self, step: int) -> None:
        self._done.add(step)

    async def result(self, step: int) -> EvaluationRecord:
        task = self._begin(step)
        try:
            record = await asyncio.shield(task)
        finally:
            if task.done():
                self._running.pop(step, None)
        self._done.add(step)
        if self.released is not None:
            await self.released()
        return record

    def holds(self, step: int) -> bool:
        """Return whether the weights after a step are still to be evaluated."""
        return step not in self._done and (step % self._every == 0 or step == self._last_step)

    async def connect(self, generation: int) -> None:
        """Cancel what is being evaluated, and evaluate another run from now on."""
        await self.stop()
        self._generation = generation
        self._done.clear()

    async def stop(self) -> None:
        """Cancel what is being evaluated."""
        tasks = list(self._running.values())
        self._running.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, step: int) -> "asyncio.Task[EvaluationRecord]":
        if step not in self._running:
            self._running[step] = asyncio.create_task(self._evaluate(step))
        return self._running[step]

    async def _evaluate(self, step: int) -> EvaluationRecord:
        recorded = await self._journal.rollouts(step, evaluated=True)
        work: list[tuple[OpenedTasks, GroupTask]] = []
        for each in self.sets:
            for number in range(each.count):
                group = len(work)
                place = RolloutPlace(self._job_id, self._seed, self._generation, step, group, 0, evaluated=True)
                ended, begun = recorded_members(recorded, group)
                work.append((each, GroupTask(place, number, step, ended, begun)))
        if all(len(task.ended) == each.samples for each, task in work):
            groups = [[task.ended[member] for member in range(each.samples)] for each, task in work]
        else:
            sampler = await self._policies.sampler(step)
            groups = await gathered([each.runner.run(task, sampler) for each, task in work])
        return self._record(step, groups)

    def _record(self, step: int, groups: Sequence[Sequence[EndedRollout]]) -> EvaluationRecord:
        members = [member for group in groups for member in group]
        metrics = evaluation_metrics(members)
        place = 0
        for each in self.sets if len(self.sets) > 1 else ():
            own = [member for group in groups[place : place + each.count] for member in group]
            place += each.count
            metrics |= {f"{each.name}.{name}": value for name, value in evaluation_metrics(own).items()}
        return EvaluationRecord(
            step=step,
            generation=self._generation,
            metrics={EVAL_PREFIX + name: value for name, value in metrics.items()},
            rows=len(members),
            tokens=sum(member.record.tokens for member in members),
        )
