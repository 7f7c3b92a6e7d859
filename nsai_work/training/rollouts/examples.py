"""Training examples of rollouts: the advantages of a group, and the tokens as they were sampled."""

import math
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import Final

from crucible.losses import ADVANTAGES, LOGPROBS, MASK, POLICY_LOSSES, TARGETS
from crucible.training import Datum, SequenceSpan
from nsai_work.journal.rollouts import RolloutStatus
from nsai_work.payloads import ReinforcementStep
from nsai_work.training.rollouts.episodes.groups import EndedRollout
from nsai_work.training.rollouts.episodes.rollout import ENDED
from nsai_work.training.rollouts.episodes.turns import Turn, full_prompt

DIGEST_BYTES: Final = 16
"""The length of ``examples_digest``."""
LEAST_WEIGHT: Final = 1e-20
"""The weight of an example that has nothing to learn. A step needs some weight; this much is nothing beside the
noise of an optimizer."""
_LEAST_SPREAD: Final = 1e-6


@dataclass(frozen=True, slots=True)
class GroupSelection:
    """The groups of a step that are trained on, each with the advantages of its rollouts; and how many were dropped
    because all their rewards are equal (``constant``), or because too few rollouts are left (``broken``)."""

    groups: Sequence[tuple[Sequence[EndedRollout], Sequence[float]]]
    constant: int
    broken: int


def selected(groups: Sequence[Sequence[EndedRollout]], payload: ReinforcementStep) -> GroupSelection:
    """Select the groups to train on."""
    chosen: list[tuple[Sequence[EndedRollout], Sequence[float]]] = []
    constant: list[tuple[Sequence[EndedRollout], Sequence[float]]] = []
    broken = 0
    least = min(payload.sampling.on_error.min_group, payload.group_size)
    for group in groups:
        # one that its environment ended at once has a reward for the baseline, and nothing to train on
        rewarded = [
            member
            for member in group
            if member.record.status is RolloutStatus.DONE and (member.turns or member.record.reason == ENDED)
        ]
        done = [member for member in rewarded if member.turns]
        if len(done) < least:
            broken += 1
            continue
        rewards = [float(member.record.reward or 0.0) for member in rewarded]
        found = zip(rewarded, advantages(rewards, payload), strict=True)
        scored = (done, [advantage for member, advantage in found if member.turns])
        # with a reference or a teacher, a group of equal rewards still teaches
        drops = (
            payload.advantage.drop_constant
            and payload.group_size > 1
            and payload.kl is None
            and payload.teacher is None
        )
        (constant if drops and len(set(rewards)) == 1 else chosen).append(scored)
    if not chosen and constant:
        # a step without examples is none: one group without a gradient holds its place
        return GroupSelection(constant[:1], len(constant) - 1, broken)
    return GroupSelection(chosen, len(constant), broken)


def advantages(rewards: Sequence[float], payload: ReinforcementStep) -> list[float]:
    """Return the advantages of the rollouts of a group."""
    spec = payload.advantage
    mean = math.fsum(rewards) / len(rewards)
    centered = [reward - mean for reward in rewards] if spec.baseline == "group_mean" else list(rewards)
    if spec.scale == "std":
        spread = math.sqrt(math.fsum((reward - mean) ** 2 for reward in rewards) / len(rewards))
        return [value / (spread + _LEAST_SPREAD) for value in centered]
    return centered


@dataclass(frozen=True, slots=True)
class TrainedExample:
    """An example, and which of its targets were sampled: 1 of these, else 0."""

    datum: Datum
    mask: Sequence[float]

    @property
    def trained_tokens(self) -> int:
        """The number of targets that were sampled."""
        return int(sum(self.mask))

    def silenced(self) -> "TrainedExample":
        """Return the example without anything to learn."""
        if (weights := self.datum.loss_inputs.get("weights")) is None:
            return self.with_advantages([0.0] * len(self.datum.tokens))
        least = array("f", (weight * (LEAST_WEIGHT if weight > LEAST_WEIGHT else 1.0) for weight in weights))
        inputs = {**self.datum.loss_inputs, "weights": least}
        return replace(self, datum=replace(self.datum, loss_inputs=inputs))

    def with_advantages(self, advantages: Sequence[float]) -> "TrainedExample":
        """Return the example with other advantages."""
        inputs = {**self.datum.loss_inputs, ADVANTAGES: array("f", advantages)}
        return replace(self, datum=replace(self.datum, loss_inputs=inputs))


@dataclass(slots=True)
class _Example:
    """An example under way: the tokens so far, and what the loss reads of each."""

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    advantages: list[float] = field(default_factory=list)
    mask: list[float] = field(default_factory=list)
    spans: list[SequenceSpan] = field(default_factory=list)

    def add(self, turn: Turn, prompt: Sequence[int], advantage: float) -> None:
        """Add the tokens of a turn behind those that it continues."""
        self._span(turn, len(self.tokens), len(prompt), of_prompt=True)
        self._span(turn, 0, len(turn.tokens), of_prompt=False)
        self.tokens += [*prompt, *turn.tokens]
        self.logprobs += [0.0] * len(prompt) + list(turn.logprobs)
        self.advantages += [0.0] * len(prompt) + [advantage] * len(turn.tokens)
        self.mask += [0.0] * len(prompt) + [1.0] * len(turn.tokens)

    def _span(self, turn: Turn, offset: int, length: int, *, of_prompt: bool) -> None:
        if turn.sequence_id is not None and length:
            self.spans.append(SequenceSpan(turn.sequence_id, offset, length, of_prompt))


def examples_of(member: EndedRollout, advantage: float, loss_fn: str) -> Iterator[TrainedExample]:
    """Yield the examples of a rollout: one, as long as each prompt continues the tokens before it, and another
    whenever the model's template has rendered the earlier turns differently."""
    current = _Example()
    for number, turn in enumerate(member.turns):
        if turn.kept == len(current.tokens):
            current.add(turn, turn.prompt, advantage)
            continue
        yield _trained(current, loss_fn)
        current = _Example()
        current.add(turn, full_prompt(member.turns, number), advantage)
    yield _trained(current, loss_fn)


def divided(examples: Sequence[TrainedExample], parts: int, number: int) -> Sequence[TrainedExample]:
    """Return a part of the examples of a round, of ``parts`` that differ by one at most. One that would be empty
    has the last example, without an advantage: a step without examples is none."""
    size = len(examples)
    part = examples[number * size // parts : (number + 1) * size // parts]
    return part or [examples[-1].silenced()]


def examples_digest(examples: Sequence[TrainedExample]) -> bytes:
    """Return a digest of the tokens of examples."""
    digest = blake2b(digest_size=DIGEST_BYTES)
    for example in examples:
        digest.update(array("q", [*example.datum.tokens, int(example.datum.loss_inputs[TARGETS][-1])]).tobytes())
        digest.update(b"\0")
    return digest.digest()


def _trained(example: _Example, loss_fn: str) -> TrainedExample:
    return TrainedExample(_datum(example, loss_fn), array("f", example.mask[1:]))


def _datum(example: _Example, loss_fn: str) -> Datum:
    loss = POLICY_LOSSES[loss_fn]
    inputs: dict[str, Sequence[int] | Sequence[float]] = {
        TARGETS: array("q", example.tokens[1:]),
        LOGPROBS: array("f", example.logprobs[1:]),
        ADVANTAGES: array("f", example.advantages[1:]),
    }
    if MASK in loss.inputs:
        inputs[MASK] = array("f", example.mask[1:])
    tokens = array("q", example.tokens[:-1])
    if not loss.binds_sequences:
        return Datum(tokens, inputs)
    return Datum(tokens, inputs, _without_last(example.spans), _without_first(example.spans))


def _without_last(spans: Sequence[SequenceSpan]) -> list[SequenceSpan]:
    last = spans[-1]
    kept = SequenceSpan(last.sequence_id, last.offset, last.length - 1, last.of_prompt)
    return [*spans[:-1], *([kept] if kept.length else [])]


def _without_first(spans: Sequence[SequenceSpan]) -> list[SequenceSpan]:
    first = spans[0]
    kept = SequenceSpan(first.sequence_id, first.offset + 1, first.length - 1, first.of_prompt)
    return [*([kept] if kept.length else []), *spans[1:]]
