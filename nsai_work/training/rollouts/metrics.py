"""Metrics of the rollouts of a step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from crucible.losses import LOGPROBS
from crucible.training import Datum
from nsai_work.journal.rollouts import RolloutStatus
from nsai_work.payloads import REWARD
from nsai_work.training.rollouts.episodes.groups import EndedRollout
from nsai_work.training.rollouts.examples import GroupSelection

ENVIRONMENT_PREFIX: Final = "env."


def rollout_metrics(
    groups: Sequence[Sequence[EndedRollout]], selection: GroupSelection, staleness: int
) -> dict[str, float]:
    """Return the metrics of the rollouts of a step. ``entropy`` is the mean of the negative log-probability of what
    was sampled, an estimate of the entropy in nats per token."""
    records = [member.record for group in groups for member in group]
    done = [record for record in records if record.status is RolloutStatus.DONE]
    rewards = [float(record.reward or 0.0) for record in done]
    turns = [turn for group in groups for member in group for turn in member.turns]
    logprobs = [value for turn in turns for value in turn.logprobs]
    by_group = [
        [float(member.record.reward or 0.0) for member in group if member.record.status is RolloutStatus.DONE]
        for group in groups
    ]
    metrics = {
        REWARD: mean(rewards),
        "reward_std": spread(rewards),
        "reward_std_in_groups": mean([spread(each) for each in by_group if each]),
        "reward_max": max(rewards, default=0.0),
        "reward_min": min(rewards, default=0.0),
        "rollouts": float(len(records)),
        "rollouts_failed": float(len(records) - len(done)),
        "groups_trained": float(len(selection.groups)),
        "groups_constant": float(selection.constant),
        "groups_broken": float(selection.broken),
        "turns": mean([float(record.turns) for record in done]),
        "sampled_tokens": float(sum(record.tokens for record in records)),
        "answer_tokens": mean([float(record.tokens) for record in done]),
        "answer_tokens_max": float(max((record.tokens for record in done), default=0)),
        "truncated": sum(not turn.stopped for turn in turns) / max(len(turns), 1),
        "entropy": -mean(logprobs),
        "staleness": float(staleness),
    }
    return {**metrics, **_of_environment(record.metrics for record in done)}


def evaluation_metrics(members: Sequence[EndedRollout]) -> dict[str, float]:
    """Return the metrics of the rollouts of an evaluation. Without a rollout that has a reward, there is no mean of
    them."""
    done = [member.record for member in members if member.record.status is RolloutStatus.DONE]
    metrics = {"rollouts_failed": float(len(members) - len(done))}
    if not done:
        return metrics
    rewards = [float(record.reward or 0.0) for record in done]
    metrics |= {
        REWARD: mean(rewards),
        "reward_std": spread(rewards),
        "turns": mean([float(record.turns) for record in done]),
        "answer_tokens": mean([float(record.tokens) for record in done]),
        "truncated": sum(record.truncated for record in done) / max(sum(record.turns for record in done), 1),
    }
    return {**metrics, **_of_environment(record.metrics for record in done)}


def drift(batch: Sequence[Datum], trained: Sequence[Sequence[float]]) -> dict[str, float]:
    """Return how far the log-probabilities of the training pass are from those of the samples, over the sampled
    tokens: the mean difference, and half the mean square, two estimates of their divergence in nats per token."""
    differences = [
        float(sampled) - float(value)
        for datum, row in zip(batch, trained, strict=True)
        for sampled, value in zip(datum.loss_inputs[LOGPROBS], row, strict=True)
        # those of a prompt are 0
        if sampled
    ]
    return {
        "kl_sample_train_v1": mean(differences),
        "kl_sample_train_v2": mean([difference * difference for difference in differences]) / 2,
    }


def _of_environment(metrics: Iterable[Mapping[str, float]]) -> dict[str, float]:
    found: dict[str, list[float]] = {}
    for each in metrics:
        for name, value in each.items():
            found.setdefault(name, []).append(value)
    return {ENVIRONMENT_PREFIX + name: mean(values) for name, values in sorted(found.items())}


def mean(values: Sequence[float]) -> float:
    """Return the mean; 0 of none."""
    return math.fsum(values) / len(values) if values else 0.0


def spread(values: Sequence[float]) -> float:
    """Return the standard deviation; 0 of none."""
    center = mean(values)
    return math.sqrt(mean([(value - center) ** 2 for value in values]))
