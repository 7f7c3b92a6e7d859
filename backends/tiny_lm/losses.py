"""The API's loss functions, with their derivatives by the log-probability of each target.

Definitions follow the public Tinker documentation (https://tinker-docs.thinkingmachines.ai/tinker/losses): every
loss is a sum over tokens, ``ratio`` is ``exp(target_logprobs - sampling_logprobs)``, and the bounds of PPO, CISPO
and GSPO are factors of the ratio, by default 0.8 and 1.2: settings, or inputs with a value for each token. DRO's
``beta`` is 0.05 by default. The documentation names no bounds of GSPO; here they are those of PPO.

The objective of ``stable_reinforce`` is not published. The one here is a stand-in of our own, named in
``STAND_INS`` and in the metrics of each answer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from backends.tiny_lm.network import Array

Config = Mapping[str, float]
Inputs = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Loss:
    """The loss of one sequence, the arrays returned to the client, and the derivative by target."""

    value: float
    outputs: dict[str, Array]
    by_target: Array
    """Derivative by each target's log-probability, in the shape of the targets."""

    metrics: Mapping[str, float] = field(default_factory=dict)
    """Further metrics by name; the suffix says how they are joined over sequences: ``:sum``, ``:mean`` or
    ``:max``."""


@dataclass(frozen=True, slots=True)
class LossFunction:
    """A loss function, with the names of its inputs and settings."""

    required: tuple[str, ...]
    optional: tuple[str, ...]
    settings: frozenset[str]
    compute: Callable[[Array, Inputs, Config], Loss]


def _cross_entropy(logprobs: Array, inputs: Inputs, _config: Config) -> Loss:
    """``-(target_logprobs * weights).sum()``; weights default to one."""
    weights = np.asarray(inputs.get("weights", np.ones_like(logprobs)), dtype=logprobs.dtype)
    each = -logprobs * weights
    return Loss(_total(each), {"logprobs": logprobs, "elementwise_loss": each}, -weights)


def _importance_sampling(logprobs: Array, inputs: Inputs, _config: Config) -> Loss:
    """``-(ratio * advantages).sum()``."""
    each = -_ratio(logprobs, inputs) * _input("advantages", logprobs, inputs)
    return Loss(_total(each), {"logprobs": logprobs}, each)


def _ppo(logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    """``-min(ratio * advantages, clip(ratio) * advantages).sum()``; zero slope where the clipped term is less."""
    return _clipped(_ratio(logprobs, inputs), logprobs, inputs, config)


def _gspo(logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    """PPO's objective with one ratio for the sequence, ``exp(mean(target_logprobs - sampling_logprobs))`` over the
    tokens of ``sequence_ratio_mask``; each token's ratio has its own log-probability's gradient (GSPO-token).
    Without the mask, as a stand-in, over the rows that the server marks as ``sampled_rows``."""
    drift = logprobs - _input("logprobs", logprobs, inputs)
    mask = inputs.get("sequence_ratio_mask")
    chosen = np.asarray(inputs["sampled_rows"] if mask is None else mask) != 0
    ratio = np.full_like(logprobs, np.exp(np.mean(drift[chosen])))
    loss = _clipped(ratio, logprobs, inputs, config)
    return replace(loss, metrics={"gspo_mask_stand_in:max": 1.0}) if mask is None else loss


def _clipped(ratio: Array, logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    advantages = _input("advantages", logprobs, inputs)
    free, clipped = ratio * advantages, _clip(ratio, inputs, config) * advantages
    each = -np.minimum(free, clipped)
    return Loss(_total(each), {"logprobs": logprobs}, np.where(free <= clipped, -free, np.zeros_like(free)))


def _cispo(logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    """``-(clip(ratio) * target_logprobs * advantages).sum()``; constant clipped ratio in the derivative."""
    factor = _clip(_ratio(logprobs, inputs), inputs, config) * _input("advantages", logprobs, inputs)
    return Loss(_total(-factor * logprobs), {"logprobs": logprobs}, -factor)


def _dro(logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    """``-(target_logprobs * advantages - beta / 2 * (target_logprobs - sampling_logprobs)**2).sum()``."""
    beta = logprobs.dtype.type(config.get("beta", 0.05))
    advantages = _input("advantages", logprobs, inputs)
    drift = logprobs - _input("logprobs", logprobs, inputs)
    each = -(logprobs * advantages - beta / 2 * drift * drift)
    return Loss(_total(each), {"logprobs": logprobs}, -(advantages - beta * drift))


def _stable_reinforce(logprobs: Array, inputs: Inputs, config: Config) -> Loss:
    """A stand-in: ``-(target_logprobs * advantages).sum()`` plus ``kl_coeff / 2 * (target_logprobs -
    sampling_logprobs)**2``, both over the sampled rows, which the server marks as ``sampled_rows``."""
    kl = logprobs.dtype.type(config.get("kl_coeff", 0.0))
    sampled = _input("sampled_rows", logprobs, inputs)
    advantages = _input("advantages", logprobs, inputs)
    drift = logprobs - _input("logprobs", logprobs, inputs)
    each = -sampled * (logprobs * advantages - kl / 2 * drift * drift)
    by_target = -sampled * (advantages - kl * drift)
    return Loss(_total(each), {"logprobs": logprobs}, by_target, {"stable_reinforce_stand_in:max": 1.0})


def _ratio(logprobs: Array, inputs: Inputs) -> Array:
    ratio: Array = np.exp(logprobs - _input("logprobs", logprobs, inputs))
    return ratio


def _input(name: str, logprobs: Array, inputs: Inputs) -> Array:
    return np.asarray(inputs[name], dtype=logprobs.dtype)


def _clip(ratio: Array, inputs: Inputs, config: Config) -> Array:
    low, high = (
        _input(key, ratio, inputs) if key in inputs else ratio.dtype.type(config.get(key, default))
        for key, default in (("clip_low_threshold", 0.8), ("clip_high_threshold", 1.2))
    )
    return np.clip(ratio, low, high)


def _total(each: Array) -> float:
    return float(np.sum(each, dtype=np.float64))


_POLICY: Final = ("target_tokens", "logprobs", "advantages")
_CLIPS: Final = ("clip_low_threshold", "clip_high_threshold")
_BOUNDS: Final = frozenset(_CLIPS)

LOSSES: Final[Mapping[str, LossFunction]] = {
    "cross_entropy": LossFunction(("target_tokens",), ("weights",), frozenset(), _cross_entropy),
    "importance_sampling": LossFunction(_POLICY, (), frozenset(), _importance_sampling),
    "ppo": LossFunction(_POLICY, _CLIPS, _BOUNDS, _ppo),
    "cispo": LossFunction(_POLICY, _CLIPS, _BOUNDS, _cispo),
    "dro": LossFunction(_POLICY, (), frozenset({"beta"}), _dro),
    "gspo": LossFunction(_POLICY, ("sequence_ratio_mask", *_CLIPS), _BOUNDS, _gspo),
    "stable_reinforce": LossFunction(_POLICY, (), frozenset({"kl_coeff"}), _stable_reinforce),
}

STAND_INS: Final[Mapping[str, str]] = {
    "gspo without sequence_ratio_mask": (
        "the service does not publish which tokens the sequence's ratio is taken over when the mask is not given; "
        "here it is the rows of the spans of sampled tokens"
    ),
    "stable_reinforce": (
        "the service does not publish this objective; here it is REINFORCE over the sampled rows, "
        "with kl_coeff / 2 times the squared drift from the sampling log-probabilities"
    ),
    "dimuon": (
        "the service does not publish this update rule; here it is Muon: a moving average of the gradient (beta1), "
        "each matrix replaced by its orthogonal factor"
    ),
}
"""Names of the API with unpublished arithmetic, and the arithmetic that this implementation has in its place."""


def evaluate(loss_fn: str | LossFunction, logprobs: Array, inputs: Inputs, config: Config) -> tuple[Loss, Array]:
    """Compute the loss of one sequence, by its name in ``LOSSES`` or by itself, and its derivative by the logits,
    ``[position, vocabulary]``.

    ``target_tokens`` has one target per position, or a row of them (distillation towards several tokens).
    """
    targets = np.asarray(inputs["target_tokens"], dtype=np.int64)
    columns = targets.reshape(len(targets), -1)
    rows = np.arange(len(columns))[:, None]
    target_logprobs = logprobs[rows, columns].reshape(targets.shape)
    function = LOSSES[loss_fn] if isinstance(loss_fn, str) else loss_fn
    loss = function.compute(target_logprobs, inputs, config)
    by_column = loss.by_target.reshape(columns.shape)
    slope = np.exp(logprobs)
    slope *= -by_column.sum(axis=1, keepdims=True)
    np.add.at(slope, (rows, columns), by_column)
    return loss, slope
