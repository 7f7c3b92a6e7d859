"""Environments for tests that render their own prompts and take tokens: a group that shares a word, and faults."""

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import JsonValue

from crucible.environments import (
    Episode,
    Feedback,
    GroupEnvironment,
    Observation,
    RolloutContext,
    TokenEpisode,
    TokenPrompt,
)
from crucible.errors import InvalidRequest
from crucible.prompt import Message
from crucible.token_sampler import TokenSample

BEGIN, STOP = 258, 97


class Echoes(GroupEnvironment):
    """Two turns, in each of which a reward is the number of tokens; an answer ends with the letter a. The group
    gives each member the place of its sum."""

    def __init__(self, settings: Mapping[str, JsonValue] | None = None) -> None:
        self.fault = str((settings or {}).get("fault", ""))
        self.most = (settings or {}).get("max_episodes")
        self.context: RolloutContext | None = None
        self.open_groups = 0
        self.seen: list[int] = []

    def use_context(self, context: RolloutContext) -> None:
        self.context = context

    def max_episodes(self) -> Any:
        return self.most

    def tasks(self) -> int:
        return 2

    async def start_group(self, task: int, seed: int, size: int) -> Sequence[Episode]:
        if task >= self.tasks():
            raise InvalidRequest.of("task", task, "0 to 1")
        assert self.context is not None
        assert (self.context.model, self.context.group_size) == ("tiny-lm", size)
        self.open_groups += 1
        self.seen.append(self.open_groups)
        members = [_Echo(self, task, self.fault if task == 0 else "") for _ in range(size)]
        members[0].counts = True
        return members

    async def group_feedback(
        self, episodes: Sequence[Episode], transcripts: Sequence[Sequence[Message]], rewards: Sequence[float]
    ) -> Sequence[Feedback]:
        assert not any(episode.closed for episode in episodes if isinstance(episode, _Echo))
        if self.fault == "one feedback":
            return [Feedback(1.0, done=True)]
        if self.fault == "no feedbacks":
            return [1.0] * len(episodes)  # type: ignore[list-item]
        places = [sorted(rewards).index(reward) for reward in rewards]
        return [Feedback(float(place), done=True, metrics={"place": float(place)}) for place in places]


class _Echo(TokenEpisode):
    def __init__(self, environment: Echoes, task: int, fault: str) -> None:
        self._environment = environment
        self._tokens = [BEGIN, 65 + task]
        self._fault = fault
        self._turns = 0
        self.counts = False
        self.closed = False

    def _prompt(self) -> Any:
        match self._fault:
            case "no prompt":
                return None
            case "no tokens":
                return TokenPrompt([])
            case "unknown token":
                return TokenPrompt([320], [STOP])
            case "negative token":
                return TokenPrompt([-1], [STOP])
            case "unknown stop":
                return TokenPrompt([BEGIN], [1000])
            case "texts":
                return TokenPrompt(["a"])  # type: ignore[list-item]
            case "10 million tokens":
                return TokenPrompt([65] * 10_000_000)
        return TokenPrompt(tuple(self._tokens), (STOP,))

    async def begin(self) -> Observation:
        if self._fault == "ends at once":
            return Observation(ended=Feedback(-2.0, done=True, metrics={"early": 1.0}))
        if self._fault == "ends at once with NaN":
            return Observation(ended=Feedback(float("nan"), done=True))
        return Observation(prompt=self._prompt())

    async def step_tokens(self, sample: TokenSample) -> Feedback:
        assert (sample.tokens[-1] == STOP) == sample.stopped
        assert len(sample.logprobs) == len(sample.tokens)
        self._turns += 1
        self._tokens += [*sample.tokens, BEGIN, 66]
        if self._turns == 2:
            return Feedback(float(len(sample.tokens)), done=True)
        return Feedback(float(len(sample.tokens)), done=False, prompt=self._prompt())

    async def close(self) -> None:
        if self.counts and not self.closed:
            self._environment.open_groups -= 1
        self.closed = True
