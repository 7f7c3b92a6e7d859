"""Gradients equal finite differences of the losses in double precision."""

import numpy as np
import pytest

from backends.tiny_lm.adapter import Adapter, AdapterShape
from backends.tiny_lm.losses import LOSSES, evaluate
from backends.tiny_lm.network import Network

TOKENS = np.array([258, 72, 105, 256, 259, 72, 111], dtype=np.int64)
TARGETS = np.array([72, 105, 256, 259, 72, 111, 33], dtype=np.int64)
CONFIGS = {
    "ppo": {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3},
    "dro": {"beta": 0.4},
    "stable_reinforce": {"kl_coeff": 0.3},
}


@pytest.fixture(scope="module")
def network() -> Network:
    return Network("tiny-lm", 0, dtype=np.float64)


def adapter_in_motion() -> Adapter:
    """An adapter whose second matrices are not zero, so that no gradient vanishes."""
    adapter = Adapter(AdapterShape(3), 1, dtype=np.float64)
    rng = np.random.default_rng(5)
    for key, weight in adapter.weights.items():
        adapter.weights[key] = weight + 0.05 * rng.standard_normal(weight.shape)
    return adapter


def inputs_of(loss: str, logprobs: np.ndarray) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(7)
    found = logprobs[np.arange(len(TARGETS)), TARGETS]
    return {
        "target_tokens": TARGETS,
        "weights": rng.uniform(-1, 1, len(TARGETS)),
        "logprobs": found + rng.uniform(-0.5, 0.5, len(TARGETS)),
        "advantages": rng.uniform(-1, 1, len(TARGETS)),
        "sequence_ratio_mask": np.arange(len(TARGETS)) > 2,
        "sampled_rows": np.arange(len(TARGETS)) > 2,
    }


@pytest.mark.parametrize("loss", LOSSES)
def test_the_backward_pass_is_the_derivative_of_the_loss(network: Network, loss: str):
    """For every matrix, a small step changes the loss by its gradient."""
    adapter = adapter_in_motion()
    inputs = inputs_of(loss, network.forward(TOKENS, adapter.low_rank).logprobs)
    config = CONFIGS.get(loss, {})
    frozen_ratio = first = sequence_ratio = None

    def value() -> float:
        logprobs = network.forward(TOKENS, adapter.low_rank).logprobs
        if loss == "cispo":  # the ratio is a constant to the derivative
            found = logprobs[np.arange(len(TARGETS)), TARGETS]
            return float(-(frozen_ratio * found * inputs["advantages"]).sum())
        if loss == "gspo":  # each token's ratio has the sequence's value and its own derivative
            found = logprobs[np.arange(len(TARGETS)), TARGETS]
            ratio = sequence_ratio * np.exp(found - first)
            free, clipped = (r * inputs["advantages"] for r in (ratio, np.clip(ratio, 0.8, 1.2)))
            return float(-np.minimum(free, clipped).sum())
        return evaluate(loss, logprobs, inputs, config)[0].value

    trace = network.forward(TOKENS, adapter.low_rank)
    found = trace.logprobs[np.arange(len(TARGETS)), TARGETS]
    first = found
    sequence_ratio = np.exp(np.mean((found - inputs["logprobs"])[inputs["sequence_ratio_mask"]]))
    frozen_ratio = np.clip(np.exp(found - inputs["logprobs"]), 0.8, 1.2)
    _, slope = evaluate(loss, trace.logprobs, inputs, config)
    network.backward(trace, slope, adapter.low_rank, adapter.gradients())

    rng = np.random.default_rng(9)
    for key, weight in adapter.weights.items():
        direction = rng.standard_normal(weight.shape)
        small = 1e-6
        weight += small * direction
        above = value()
        weight -= 2 * small * direction
        below = value()
        weight += small * direction
        measured = (above - below) / (2 * small)
        assert measured == pytest.approx(float((adapter.gradients()[key] * direction).sum()), rel=1e-5, abs=1e-7)


def test_several_targets_a_position(network: Network):
    """Cross entropy towards several tokens at a position is the sum of those towards each."""
    adapter = adapter_in_motion()
    logprobs = network.forward(TOKENS, adapter.low_rank).logprobs
    other = np.roll(TARGETS, 1)
    both = np.stack([TARGETS, other], axis=1)
    weights = np.linspace(0, 1, both.size).reshape(both.shape)

    loss, slope = evaluate("cross_entropy", logprobs, {"target_tokens": both, "weights": weights}, {})
    parts = [
        evaluate("cross_entropy", logprobs, {"target_tokens": tokens, "weights": weights[:, place]}, {})
        for place, tokens in enumerate((TARGETS, other))
    ]

    assert loss.value == pytest.approx(sum(part.value for part, _ in parts))
    assert slope == pytest.approx(sum(part for _, part in parts))
    assert loss.outputs["logprobs"].shape == both.shape


@pytest.mark.parametrize(
    ("loss", "ratio", "advantage", "expected"),
    [
        ("importance_sampling", 2.0, 3.0, -6.0),
        ("ppo", 2.0, 1.0, -1.2),
        ("ppo", 2.0, -1.0, 2.0),
        ("ppo", 0.5, -1.0, 0.8),
    ],
)
def test_policy_losses_by_hand(loss: str, ratio: float, advantage: float, expected: float):
    """One token whose loss is computed by hand."""
    logprobs = np.log(np.full((1, 320), 1 / 320))
    inputs = {
        "target_tokens": np.array([5]),
        "logprobs": np.array([np.log(1 / 320) - np.log(ratio)]),
        "advantages": np.array([advantage]),
    }

    assert evaluate(loss, logprobs, inputs, {})[0].value == pytest.approx(expected)
