"""Groups of rollouts: those that the journal lacks are sampled; failed ones are begun again, then left out."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeVar

from crucible.environments import Environment, Episode, Feedback, GroupEnvironment
from crucible.token_sampler import TokenSampler
from nsai_work.journal import Journal
from nsai_work.journal.rollouts import RecordedRollouts, RolloutRecord, RolloutStatus, StoredTurn
from nsai_work.training.rollouts.episodes.environment_calls import CLOSE_WITHIN_S, EpisodeBroken, bounded, called
from nsai_work.training.rollouts.episodes.place import RolloutPlace
from nsai_work.training.rollouts.episodes.rollout import Rollout, RolloutSettings, accounted, play
from nsai_work.training.rollouts.episodes.turns import Turn, current_turns

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class EndedRollout:
    """A rollout that has ended, with its turns."""

    record: RolloutRecord
    turns: Sequence[Turn]


@dataclass(frozen=True, slots=True)
class GroupTask:
    """A group to sample: its place, its task, and what the journal has of its members, by member."""

    place: RolloutPlace
    task: int
    weights_step: int
    ended: Mapping[int, EndedRollout]
    begun: Mapping[int, tuple[list[Turn], int]]


def recorded_members(
    recorded: RecordedRollouts, group: int, generation: int | None = None
) -> tuple[dict[int, EndedRollout], dict[int, tuple[list[Turn], int]]]:
    """Return the members of a group that have ended, and the turns of the others, by member; with a ``generation``
    only those of that run."""
    turns: dict[int, list[StoredTurn]] = {}
    for turn in recorded.turns:
        if turn.group == group and generation in (None, turn.generation):
            turns.setdefault(turn.member, []).append(turn)
    ended: dict[int, EndedRollout] = {}
    for record in recorded.rollouts:
        if record.group == group and generation in (None, record.generation):
            own = [turn for turn in turns.get(record.member, []) if turn.generation <= record.generation]
            ended[record.member] = EndedRollout(record, current_turns(own)[0])
    begun = {member: current_turns(rows) for member, rows in sorted(turns.items()) if member not in ended}
    return ended, begun


class GroupSampler:
    """Runs the rollouts of groups of ``size``, each in one of ``slots``, which bound how many run at a time."""

    def __init__(
        self,
        environment: Environment,
        rules: RolloutSettings,
        journal: Journal,
        size: int,
        slots: asyncio.Semaphore,
    ) -> None:
        self._environment = environment
        self._rules = rules
        self._journal = journal
        self._size = size
        self._slots = slots

    async def run(self, task: GroupTask, sampler: TokenSampler) -> list[EndedRollout]:
        """Return all members of a group, done or failed.

        Raises:
            CrucibleError: the service or the journal failed.
        """
        if isinstance(self._environment, GroupEnvironment):
            return await self._run_together(self._environment, task, sampler)
        return await gathered([self._run_member(task, member, sampler) for member in range(self._size)])

    async def _run_member(self, task: GroupTask, member: int, sampler: TokenSampler) -> EndedRollout:
        if member in task.ended:
            return task.ended[member]
        rollout = self._new(task, member)
        async with self._slots:
            failure = await self._retried([rollout], task, sampler)
        [ended] = await self._record(task, [rollout], [rollout.reward], failure, sampler)
        return ended

    async def _run_together(
        self, environment: GroupEnvironment, task: GroupTask, sampler: TokenSampler
    ) -> list[EndedRollout]:
        if len(task.ended) == self._size:
            return [task.ended[member] for member in range(self._size)]
        members = [self._new(task, member) for member in range(self._size)]
        async with self._slots:
            failure = await self._retried(members, task, sampler, partial(self._reward_group, environment, members))
        return await self._record(task, members, [each.reward for each in members], failure, sampler)

    def _new(self, task: GroupTask, member: int) -> Rollout:
        turns, attempt = task.begun.get(member, ([], 0))
        return Rollout(replace(task.place, member=member), list(turns), attempt)

    async def _retried(
        self,
        rollouts: Sequence[Rollout],
        task: GroupTask,
        sampler: TokenSampler,
        reward: Callable[[Sequence[Episode]], Awaitable[None]] | None = None,
    ) -> str | None:
        """Play the episodes of rollouts that belong together, and ``reward`` them at their end; return why they
        failed for good, else None."""
        failure: str | None = None
        for _ in range(self._rules.sampling.on_error.retry + 1):
            episodes: Sequence[Episode] = ()
            try:
                episodes = await self._begin(task, len(rollouts))
                pairs = list(zip(rollouts, episodes, strict=True))
                if len(pairs) == 1:
                    await play(*pairs[0], sampler, self._rules)
                else:
                    await gathered([play(*pair, sampler, self._rules) for pair in pairs])
                if reward is not None:
                    await reward(episodes)
            except EpisodeBroken as error:
                failure = str(error)
            else:
                return None
            finally:
                await _close(episodes)
        return failure

    async def _begin(self, task: GroupTask, count: int) -> Sequence[Episode]:
        seed = task.place.episode_seed
        environment = self._environment
        seconds = self._rules.sampling.limits.seconds
        if isinstance(environment, GroupEnvironment):
            start = partial(environment.start_group, task.task, seed, count)
            episodes = await called(start, seconds, f"limits.seconds={seconds:g} to start", Sequence)
        else:
            one = partial(environment.start, task.task, seed)
            episodes = [await called(one, seconds, f"limits.seconds={seconds:g} to start", Episode)]
        if len(episodes) != count or not all(isinstance(episode, Episode) for episode in episodes):
            raise EpisodeBroken(f"start_group gave something else than {count} episodes")
        return episodes

    async def _reward_group(
        self, environment: GroupEnvironment, members: Sequence[Rollout], episodes: Sequence[Episode]
    ) -> None:
        transcripts = [rollout.messages for rollout in members]
        call = partial(environment.group_feedback, episodes, transcripts, [each.reward for each in members])
        seconds = self._rules.sampling.limits.seconds
        given = await called(call, seconds, f"limits.seconds={seconds:g} for the rewards of the group", Sequence)
        if len(given) != len(members) or not all(isinstance(each, Feedback) for each in given):
            raise EpisodeBroken(f"the rewards of the group are something else than {len(members)} rewards")
        for rollout, feedback in zip(members, given, strict=True):
            rollout.reward = accounted(rollout, feedback)

    async def _record(
        self,
        task: GroupTask,
        rollouts: Sequence[Rollout],
        rewards: Sequence[float],
        failure: str | None,
        sampler: TokenSampler,
    ) -> list[EndedRollout]:
        ended = [self._finished(task, *pair, failure, sampler) for pair in zip(rollouts, rewards, strict=True)]
        await self._journal.finish_rollouts([each.record for each in ended])
        return ended

    def _finished(
        self, task: GroupTask, rollout: Rollout, reward: float, failure: str | None, sampler: TokenSampler
    ) -> EndedRollout:
        place = rollout.place
        record = RolloutRecord(
            step=place.step,
            generation=place.generation,
            group=place.group,
            member=place.member,
            task=task.task,
            weights_step=task.weights_step,
            session_id=sampler.ref.session_id,
            status=RolloutStatus.DONE if failure is None else RolloutStatus.FAILED,
            reward=reward if failure is None else None,
            metrics=rollout.metrics if failure is None else {},
            reason=rollout.reason if failure is None else bounded(failure),
            turns=len(rollout.turns),
            tokens=rollout.tokens,
            truncated=rollout.truncated,
            evaluated=place.evaluated,
        )
        return EndedRollout(record, tuple(rollout.turns))


async def gathered(work: Sequence[Coroutine[Any, Any, T]]) -> list[T]:
    """Await all, and return their results in order. At the first error the others are canceled, and it is
    raised."""
    tasks = [asyncio.create_task(each) for each in work]
    try:
        return list(await asyncio.gather(*tasks))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _close(episodes: Sequence[Episode]) -> None:
    for episode in episodes:
        # an episode that cannot be closed is the environment's matter
        with suppress(EpisodeBroken):
            await called(episode.close, CLOSE_WITHIN_S, "its end may")
