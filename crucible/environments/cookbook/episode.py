"""Groups of the cookbook's environments, whose members take and give tokens."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar

from crucible.environments.contract import Feedback, Observation, TokenEpisode, TokenPrompt
from crucible.environments.rewards import checked_metric, checked_reward
from crucible.errors import EnvironmentFailed
from crucible.runtime.own_loop import OwnLoop
from crucible.token_sampler import TokenSample

T = TypeVar("T")


class CookbookGroup:
    """A group that the builder of a task has made, which is released when all its members are closed."""

    def __init__(self, task: int, builder: Any, environments: Sequence[Any], own: OwnLoop) -> None:
        self._task = task
        self._builder = builder
        self._environments = environments
        self._own = own
        # the members share what belongs to the loop in which they were made
        self._loop = asyncio.get_running_loop()
        self.members = [CookbookEpisode(environment, self) for environment in environments]
        self._open = set(self.members)

    async def run(self, call: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """Run a call of an environment in the loop of the group."""
        return await self._own.run(call, name=str(self._task), loop=self._loop)

    async def rewards(self, sums: Sequence[float]) -> list[Feedback]:
        """Return the rewards of the members, with what the builder adds for the group, and its metrics."""
        trajectories = [member.trajectory() for member in self.members]
        given = await self.run(lambda: self._builder.compute_group_rewards(trajectories, self._environments))
        if len(given) != len(sums):
            raise EnvironmentFailed(f"compute_group_rewards gave {len(given)} rewards for {len(sums)} members")
        return [
            Feedback(own + checked_reward(reward), done=True, metrics=_numbers(metrics))
            for own, (reward, metrics) in zip(sums, given, strict=True)
        ]

    async def closed(self, member: "CookbookEpisode") -> None:
        """Release the builder after its last member."""
        if member in self._open:
            self._open.discard(member)
            if not self._open:
                await self.run(self._builder.cleanup)


class CookbookEpisode(TokenEpisode):
    """An environment of the cookbook: one episode. Its metrics are the means over its turns."""

    def __init__(self, environment: Any, group: CookbookGroup) -> None:
        self._environment = environment
        self.group = group
        self._transitions: list[Any] = []
        self._shown: Any = None
        self._seen: dict[str, list[float]] = {}

    async def begin(self) -> Observation:
        from tinker_cookbook.completers import TokensWithLogprobs
        from tinker_cookbook.rl.types import InitialObservationOverflow

        begun = await self.group.run(self._environment.initial_observation)
        if isinstance(begun, InitialObservationOverflow):
            self._keep(TokensWithLogprobs([], []), begun, ended=True)
            return Observation(ended=Feedback(begun.reward, done=True, metrics=_numbers(begun.metrics)))
        if not isinstance(begun, tuple) or len(begun) != 2:
            raise EnvironmentFailed(f"initial_observation gave {type(begun).__name__}, not a prompt and its stops")
        return Observation(prompt=self._prompt(*begun))

    async def step_tokens(self, sample: TokenSample) -> Feedback:
        from tinker_cookbook.completers import TokensWithLogprobs
        from tinker_cookbook.rl.types import StepResult

        tokens, reason = list(sample.tokens), "stop" if sample.stopped else "length"
        call = self._environment.step
        result = await self.group.run(lambda: call(tokens, extra={"stop_reason": reason}))
        if not isinstance(result, StepResult):
            raise EnvironmentFailed(f"step gave {type(result).__name__}, not StepResult")
        if result.episode_done not in (True, False):
            raise EnvironmentFailed(f"episode_done must be a bool, not {type(result.episode_done).__name__}")
        action = TokensWithLogprobs(tokens, list(sample.logprobs), reason, sample.sequence_id)
        self._keep(action, result, ended=result.episode_done)
        for name, value in _numbers(result.metrics).items():
            self._seen.setdefault(name, []).append(value)
        metrics = {name: sum(values) / len(values) for name, values in self._seen.items()}
        if result.episode_done:
            self._shown = result.next_observation
            return Feedback(result.reward, done=True, metrics=metrics)
        prompt = self._prompt(result.next_observation, result.next_stop_condition)
        return Feedback(result.reward, done=False, metrics=metrics, prompt=prompt)

    def trajectory(self) -> Any:
        """Return the episode so far in the cookbook's form."""
        from tinker_cookbook.rl.rollout_runner import stop_reason_from_metrics
        from tinker_cookbook.rl.types import Trajectory

        last = self._transitions[-1].metrics if self._transitions else {}
        return Trajectory(self._transitions, self._shown, stop_reason_from_metrics(last))

    async def close(self) -> None:
        await self.group.closed(self)

    def _keep(self, action: Any, result: Any, *, ended: bool) -> None:
        import tinker
        from tinker_cookbook.rl.types import Transition

        before = tinker.ModelInput.empty() if self._shown is None else self._shown
        self._transitions.append(Transition(before, action, result.reward, ended, result.metrics, result.logs))
        self._shown = before

    def _prompt(self, shown: Any, stops: Any) -> TokenPrompt:
        if not hasattr(shown, "to_ints") or not all(hasattr(chunk, "tokens") for chunk in shown.chunks):
            raise EnvironmentFailed("it shows something else than text; only text is sampled here")
        if texts := [stop for stop in stops if isinstance(stop, str)]:
            raise EnvironmentFailed(f"it stops at the texts {texts!r:.200}; name a renderer that stops at tokens")
        self._shown = shown
        return TokenPrompt(tuple(shown.to_ints()), tuple(stops))


def _numbers(metrics: Mapping[str, Any] | None) -> dict[str, float]:
    return {str(name): checked_metric(str(name), value) for name, value in (metrics or {}).items()}
