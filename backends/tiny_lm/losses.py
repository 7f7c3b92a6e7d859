"""The API's loss functions, with their derivatives by the log-probability of each target.

Definitions follow the public Tinker documentation (https://tinker-docs.thinkingmachines.ai/tinker/losses): every
loss is a sum over tokens, ``ratio`` is ``exp(target_logprobs - sampling_logprobs)``, and PPO's and CISPO's bounds
are factors of the ratio, by default 0.8 and 1.2. DRO's ``beta`` is 0.05 by default.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm.network import Array

Config = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one sequence, the arrays returned to the client, and the derivative by target."""

    value: float
    outputs: dict[str, Array]
    by_target: Array
    """Derivative by each target's log-probability, in the shape of the targets."""


@dataclass(frozen=True, slots=True)
class LossFunction:
    """A loss function, with the names of its inputs and settings."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    settings: frozenset[str]
    compute: Callable[[Array, Mapping[str, NDArray[np.generic]], Config], Loss]


def _cross_entropy(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], _config: Config) -> Loss:
    """``-(target_logprobs * weights).sum()``; weights default to one."""
    weights = np.asarray(inputs.get("weights", np.ones_like(logprobs)), dtype=logprobs.dtype)
    each = -logprobs * weights
    return Loss(_total(each), {"logprobs": logprobs, "elementwise_loss": each}, -weights)


def _importance_sampling(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], _config: Config) -> Loss:
    """``-(ratio * advantages).sum()``."""
    each = -_ratio(logprobs, inputs) * _advantages(logprobs, inputs)
    return Loss(_total(each), {"logprobs": logprobs}, each)


def _ppo(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-min(ratio * advantages, clip(ratio) * advantages).sum()``; zero slope where the clipped term is less."""
    ratio, advantages = _ratio(logprobs, inputs), _advantages(logprobs, inputs)
    free, clipped = ratio * advantages, _clip(ratio, config) * advantages
    each = -np.minimum(free, clipped)
    return Loss(_total(each), {"logprobs": logprobs}, np.where(free <= clipped, -free, np.zeros_like(free)))


def _cispo(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-(clip(ratio) * target_logprobs * advantages).sum()``; constant clipped ratio in the derivative."""
    factor = _clip(_ratio(logprobs, inputs), config) * _advantages(logprobs, inputs)
    return Loss(_total(-factor * logprobs), {"logprobs": logprobs}, -factor)


def _dro(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]], config: Config) -> Loss:
    """``-(target_logprobs * advantages - beta / 2 * (target_logprobs - sampling_logprobs)**2).sum()``."""
    beta = logprobs.dtype.type(config.get("beta", 0.05))
    advantages = _advantages(logprobs, inputs)
    drift = logprobs - np.asarray(inputs["logprobs"], dtype=logprobs.dtype)
    each = -(logprobs * advantages - beta / 2 * drift * drift)
    return Loss(_total(each), {"logprobs": logprobs}, -(advantages - beta * drift))


def _ratio(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]]) -> Array:
    ratio: Array = np.exp(logprobs - np.asarray(inputs["logprobs"], dtype=logprobs.dtype))
    return ratio


def _advantages(logprobs: Array, inputs: Mapping[str, NDArray[np.generic]]) -> Array:
    return np.asarray(inputs["advantages"], dtype=logprobs.dtype)


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
    """Compute the loss of one sequence and its derivative by the logits, ``[position, vocabulary]``.

    ``target_tokens`` has one target per position, or a row of them (distillation towards several tokens).
    """
    targets = np.asarray(inputs["target_tokens"], dtype=np.int64)
    columns = targets.reshape(len(targets), -1)
    rows = np.arange(len(columns))[:, None]
    target_logprobs = logprobs[rows, columns].reshape(targets.shape)
    loss = LOSSES[name].compute(target_logprobs, inputs, config)
    by_column = loss.by_target.reshape(columns.shape)
    slope = np.exp(logprobs)
    slope *= -by_column.sum(axis=1, keepdims=True)
    np.add.at(slope, (rows, columns), by_column)
    return loss, slope
