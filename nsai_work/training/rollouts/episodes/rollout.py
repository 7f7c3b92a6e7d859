"""A rollout: an episode in which the model answers, turn by turn, until it ends.

Turns that the journal has are not sampled again: the episode is begun anew, and their answers are given to it. If
it then shows other messages than it did, the turns from there on are sampled anew, in another attempt.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Final, TypeVar

from crucible.environments import Episode, Feedback, Observation, TokenEpisode, checked_metric, checked_reward
from crucible.errors import EnvironmentFailed
from crucible.prompt import Message
from crucible.rendering.output_parser import parse_output
from crucible.rendering.tokenizer import Tokenizer
from crucible.token_sampler import SamplingSpec, TokenSampler
from nsai_work.journal.rollouts import StoredTurn
from nsai_work.payloads import RolloutSampling
from nsai_work.training.rollouts.episodes.environment_calls import EpisodeBroken, called
from nsai_work.training.rollouts.episodes.place import RolloutPlace
from nsai_work.training.rollouts.episodes.shown_prompt import PromptRenderer, ShownPrompt
from nsai_work.training.rollouts.episodes.turns import Turn, common_length, full_prompt, full_sequence, packed

T = TypeVar("T")

ENDED: Final = "done"
"""The reason of a rollout that its environment ended."""
MAX_METRICS: Final = 64
"""The number of metrics that an environment may give for a rollout."""
MAX_NAME: Final = 200
"""The length of their names, in characters."""


@dataclass(frozen=True, slots=True)
class RolloutSettings:
    """The settings of all rollouts of a job. ``context`` is the longest sequence, in tokens, of the model. Each
    sample takes a place in ``samples``, which bounds how many are under way; its answer is worked on in
    ``answers``, one after another."""

    sampling: RolloutSampling
    tokenizer: Tokenizer
    context: int
    keep: Callable[[StoredTurn], Awaitable[None]]
    samples: asyncio.Semaphore
    answers: asyncio.Lock


@dataclass(slots=True)
class Rollout:
    """A rollout under way. ``turns`` are those so far, of the journal or new; ``sampled`` of them are new."""

    place: RolloutPlace
    turns: list[Turn]
    attempt: int = 0
    sampled: int = 0
    reward: float = 0.0
    metrics: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    messages: list[Message] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        """The number of sampled tokens."""
        return sum(len(turn.tokens) for turn in self.turns)

    @property
    def truncated(self) -> int:
        """The number of turns that did not end with a stop token."""
        return sum(not turn.stopped for turn in self.turns)


async def play(rollout: Rollout, episode: Episode, sampler: TokenSampler, rules: RolloutSettings) -> None:
    """Play an episode to its end.

    Raises:
        EpisodeBroken: the environment failed.
        CrucibleError: the service or the journal failed.
    """
    clock = _EnvironmentClock(rules.sampling.limits.seconds)
    renderer = PromptRenderer(rules.tokenizer, rules.context)
    observation = await clock.run(episode.begin, Observation)
    rollout.reward, rollout.metrics, rollout.messages = 0.0, {}, []
    if observation.ended is not None:
        rollout.reward = accounted(rollout, observation.ended)
        rollout.reason = ENDED
        return
    shown: Observation | Feedback = observation
    tools = tuple(observation.tools)
    for number in range(rules.sampling.limits.turns):
        prompt = await renderer.shown(episode, shown, tools, rollout.messages, rollout.turns[:number])
        if prompt is None:
            rollout.reason = "context"
            return
        rollout.messages += prompt.messages
        if number < len(rollout.turns) and full_prompt(rollout.turns, number) != prompt.tokens:
            # the environment did not repeat itself
            del rollout.turns[number:]
            rollout.attempt += 1
        if number == len(rollout.turns):
            limit = _room(rollout, prompt.tokens, rules)
            if limit is None:
                return
            await _sample(rollout, prompt, limit, sampler, rules)
        turn = rollout.turns[number]
        answer = Message.model_validate(turn.answer)
        rollout.messages.append(answer)
        step = (
            partial(episode.step_tokens, turn.sample)
            if isinstance(episode, TokenEpisode)
            else partial(episode.step, answer)
        )
        feedback = await clock.run(step, Feedback)
        rollout.reward += accounted(rollout, feedback)
        if feedback.done:
            rollout.reason = ENDED
            return
        shown = feedback
    rollout.reason = "limits.turns"


def _room(rollout: Rollout, prompt: Sequence[int], rules: RolloutSettings) -> int | None:
    """Return how many tokens may be sampled; None, with the reason, if none may."""
    sampling = rules.sampling
    room = rules.context - len(prompt)
    if room < 1:
        rollout.reason = "context"
        return None
    if sampling.limits.tokens is not None:
        left = sampling.limits.tokens - rollout.tokens
        if left < 1:
            rollout.reason = "limits.tokens"
            return None
        room = min(room, left)
    return min(room, sampling.max_tokens)


async def _sample(
    rollout: Rollout,
    prompt: ShownPrompt,
    limit: int,
    sampler: TokenSampler,
    rules: RolloutSettings,
) -> None:
    place, number, sampling = rollout.place, len(rollout.turns), rules.sampling
    settings = SamplingSpec(
        max_tokens=limit,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        top_k=sampling.top_k,
        stop_tokens=prompt.stop_tokens,
    )
    async with rules.samples:
        [sample] = await sampler.sample(
            prompt.tokens,
            1,
            settings,
            seed=place.sample_seed(number),
            key=place.sample_key(rollout.attempt, number),
        )
    # those that waited for the place ask the service before this answer is worked on
    async with rules.answers:
        await asyncio.sleep(0)
    before = full_sequence(rollout.turns, number - 1) if number else []
    kept = common_length(before, prompt.tokens)
    stops = {*rules.tokenizer.stop_tokens, *prompt.stop_tokens}
    answer = parsed_answer(sample.tokens, number, stops, rules.tokenizer)
    turn = Turn(
        messages=tuple(message.model_dump(mode="json", exclude_defaults=True) for message in prompt.messages),
        answer=answer.model_dump(mode="json", exclude_defaults=True),
        kept=kept,
        prompt=tuple(prompt.tokens[kept:]),
        tokens=sample.tokens,
        logprobs=sample.logprobs,
        stopped=sample.stopped,
        sequence_id=sample.sequence_id,
    )
    await rules.keep(
        StoredTurn(
            step=place.step,
            generation=place.generation,
            group=place.group,
            member=place.member,
            attempt=rollout.attempt,
            turn=number,
            data=packed(turn),
            evaluated=place.evaluated,
        )
    )
    rollout.turns.append(turn)
    rollout.sampled += 1


def parsed_answer(tokens: Sequence[int], number: int, stops: Collection[int], tokenizer: Tokenizer) -> Message:
    """The message of a turn's sampled tokens, without those that end it."""
    text = tokenizer.decode([token for token in tokens if token not in stops])
    parsed = parse_output(text, thinks=True, opened=False, calls=True, turn=number)
    return Message(
        role="assistant",
        content=parsed.content,
        thinking=parsed.thinking or None,
        tool_calls=parsed.tool_calls,
    )


def accounted(rollout: Rollout, feedback: Feedback) -> float:
    """Add the metrics of a feedback to its rollout, and return its reward.

    Raises:
        EpisodeBroken: they are no finite numbers, or too many, or it is not said whether the episode is done; or it
            is done, and shows something that nobody would see.
    """
    if feedback.done not in (True, False):
        # a text such as "no" would be true
        raise EpisodeBroken(f"done must be true or false, not {type(feedback.done).__name__}")
    if feedback.done and (feedback.messages or feedback.prompt is not None):
        shown = "messages" if feedback.messages else "a prompt"
        raise EpisodeBroken(f"it gave {shown} with done=True, which the model does not see; leave that out")
    try:
        if len(feedback.metrics) > MAX_METRICS or any(len(str(name)) > MAX_NAME for name in feedback.metrics):
            raise EpisodeBroken(
                f"it gave {len(feedback.metrics)} metrics; at most {MAX_METRICS} are kept, with names of at most "
                f"{MAX_NAME} characters"
            )
        reward = checked_reward(feedback.reward)
        metrics = {str(name): checked_metric(str(name), value) for name, value in feedback.metrics.items()}
    except EnvironmentFailed as error:
        raise EpisodeBroken(error.message) from error
    rollout.metrics.update(metrics)
    if len(rollout.metrics) > MAX_METRICS:
        raise EpisodeBroken(f"it gave {len(rollout.metrics)} metrics in all; at most {MAX_METRICS} are kept")
    return reward


class _EnvironmentClock:
    """The time that an environment may take for a rollout in all."""

    def __init__(self, seconds: float) -> None:
        self._limit = seconds
        self._left = seconds

    async def run(self, call: Callable[[], Awaitable[T]], kind: type[T]) -> T:
        """Call the environment. Raises EpisodeBroken as ``called``."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        try:
            return await called(call, self._left, f"limits.seconds={self._limit:g}", kind)
        finally:
            self._left = max(self._left - (loop.time() - began), 0.0)
