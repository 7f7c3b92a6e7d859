"""The API's loss functions, and their derivative with respect to the log-probability of each target.

Definitions follow the public Tinker documentation (https://tinker-docs.thinkingmachines.ai/tinker/losses): every
loss is a sum over tokens, ``ratio`` is ``exp(target_logprobs - sampling_logprobs)``, and PPO's and CISPO's bounds
are factors of the ratio, 0.8 and 1.2 where the request names none. DRO's ``beta`` is 0.05 where none is named.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.model.network import Array

Config = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Loss:
    """One sequence's loss, what the answer carries of it, and its slope by target."""

    value: float
    outputs: dict[str, Array]
    by_target: Array
    """Derivative with respect to each target's log-probability; the targets' own shape."""


@dataclass(frozen=True, slots=True)
class LossFunction:
    """A loss by its name: what it reads and which settings it takes."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    settings: frozenset[str]
    compute: Callable[[Array, Mapping[str, NDArray[np.generic]], Config], Loss]


def _cross_entropy(found: Array, inputs: Mapping[str, NDArray[np.generic]], _config: Config) -> Loss:
    """``-(target_logprobs * weights).sum()``; weights are one where none are given."""
    weights = np.asarray(inputs.get("weights", np.ones_like(found)), dtype=found.dtype)
    each = -found * weights
    return Loss(_total(each), {"logprobs": found, "elementwise_loss": each}, -weights)


def _importance_sampling(found: Array, inputs: Mapping[str, NDArray[np.generic]], _config: Config) -> Loss:
    """``-(ratio * advantages).sum()``."""
    each = -_ratio(found, inputs) * _advantages(found, inputs)
    return Loss(_total(each), {"logprobs": found}, each)


def _ppo(found: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-min(ratio * advantages, clip(ratio) * advantages).sum()``; no slope where the clipped one is less."""
    ratio, advantages = _ratio(found, inputs), _advantages(found, inputs)
    free, clipped = ratio * advantages, _clip(ratio, config) * advantages
    each = -np.minimum(free, clipped)
    return Loss(_total(each), {"logprobs": found}, np.where(free <= clipped, -free, np.zeros_like(free)))


def _cispo(found: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-(clip(ratio) * target_logprobs * advantages).sum()``; the clipped ratio is a constant to the slope."""
    factor = _clip(_ratio(found, inputs), config) * _advantages(found, inputs)
    return Loss(_total(-factor * found), {"logprobs": found}, -factor)


def _dro(found: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-(target_logprobs * advantages - beta / 2 * (target_logprobs - sampling_logprobs)**2).sum()``."""
    beta = found.dtype.type(config.get("beta", 0.05))
    advantages = _advantages(found, inputs)
    drift = found - np.asarray(inputs["logprobs"], dtype=found.dtype)
    each = -(found * advantages - beta / 2 * drift * drift)
    return Loss(_total(each), {"logprobs": found}, -(advantages - beta * drift))


def _ratio(found: Array, inputs: Mapping[str, NDArray[np.generic]]) -> Array:
    ratio: Array = np.exp(found - np.asarray(inputs["logprobs"], dtype=found.dtype))
    return ratio


def _advantages(found: Array, inputs: Mapping[str, NDArray[np.generic]]) -> Array:
    return np.asarray(inputs["advantages"], dtype=found.dtype)


def _clip(ratio: Array, config: Config) -> Array:
    low, high = config.get("clip_low_threshold", 0.8), config.get("clip_high_threshold", 1.2)
    return np.clip(ratio, ratio.dtype.type(low), ratio.dtype.type(high))


def _total(each: Array) -> float:
    return float(np.sum(each, dtype=np.float64))


_POLICY: Final = ("target_tokens", "logprobs", "advantages")
_CLIPS: Final = frozenset({"clip_low_threshold", "clip_high_threshold"})

LOSSES: Final[Mapping[str, LossFunction]] = {
    "cross_entropy": LossFunction(("target_tokens",), ("weights",), frozenset(), _cross_entropy),
    "importance_sampling": LossFunction(_POLICY, (), frozenset(), _importance_sampling),
    "ppo": LossFunction(_POLICY, (), _CLIPS, _ppo),
    "cispo": LossFunction(_POLICY, (), _CLIPS, _cispo),
    "dro": LossFunction(_POLICY, (), frozenset({"beta"}), _dro),
}


def evaluate(
    name: str, logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config
) -> tuple[Loss, Array]:
    """The loss of one sequence and its slope with respect to the logits, ``[position, vocabulary]``.

    ``target_tokens`` has one target a position, or a row of them (distillation towards several tokens).
    """
    targets = np.asarray(inputs["target_tokens"], dtype=np.int64)
    columns = targets.reshape(len(targets), -1)
    rows = np.arange(len(columns))[:, None]
    found = logprobs[rows, columns].reshape(targets.shape)
    loss = LOSSES[name].compute(found, inputs, config)
    by_column = loss.by_target.reshape(columns.shape)
    slope = np.exp(logprobs)
    slope *= -by_column.sum(axis=1, keepdims=True)
    np.add.at(slope, (rows, columns), by_column)
    return loss, slope
