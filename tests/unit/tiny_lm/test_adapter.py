"""The optimizer, and its state in a checkpoint."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tiny_lm import safetensors
from backends.tiny_lm.adapter import AdamStep, Adapter, AdapterShape

HOW = AdamStep(0.1, 0.9, 0.95, 1e-12, 0.0, 0.0)


def with_gradient(adapter: Adapter, seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    for gradient in adapter.gradients().values():
        gradient += rng.standard_normal(gradient.shape).astype(gradient.dtype)
    return adapter


def test_adam_step_by_hand():
    """Two steps on one number: bias correction, decay, eps and weight decay as in Adam's definition."""
    adapter = Adapter(AdapterShape(1), 0, dtype=np.float64)
    how = AdamStep(learning_rate=0.1, beta1=0.9, beta2=0.5, eps=1e-3, weight_decay=0.2, grad_clip_norm=0)
    weight = adapter.weights["attn.down"]
    value, first, second = float(weight[0, 0]), 0.0, 0.0

    for step, gradient in enumerate((0.5, -2.0), 1):
        adapter.gradients()["attn.down"][0, 0] = gradient
        adapter.step(how)
        first = 0.9 * first + 0.1 * gradient
        second = 0.5 * second + 0.5 * gradient**2
        move = (first / (1 - 0.9**step)) / ((second / (1 - 0.5**step)) ** 0.5 + 1e-3)
        value -= 0.1 * (move + 0.2 * value)
        assert weight[0, 0] == pytest.approx(value)


def test_a_clipped_gradient_has_the_norm_it_was_clipped_to():
    """The returned norm is unclipped; the moments use the clipped gradient."""
    adapter = with_gradient(Adapter(AdapterShape(2), 0, dtype=np.float64), 1)
    whole = {key: value.copy() for key, value in adapter.gradients().items()}

    norm = adapter.step(AdamStep(0.1, 0.9, 0.95, 1e-12, 0.0, grad_clip_norm=0.5))

    assert norm == pytest.approx(np.sqrt(sum(float((g * g).sum()) for g in whole.values())))
    for key, gradient in whole.items():
        assert adapter.first[key] == pytest.approx(0.1 * gradient * 0.5 / norm)


@given(seed=st.integers(0, 1000), steps=st.integers(0, 4), rank=st.integers(1, 5))
def test_state_comes_back_whole_through_a_file(seed: int, steps: int, rank: int):
    """An adapter from its own state, through the file's bytes, has the same digest and the same next step."""
    adapter = Adapter(AdapterShape(rank, train_attn=seed % 2 == 0), seed)
    for step in range(steps):
        with_gradient(adapter, step).step(HOW)

    state = safetensors.unpack(safetensors.pack(adapter.state(optimizer=True)))
    again = Adapter.of_state(adapter.shape, state, optimizer=True)

    assert again.digest() == adapter.digest()
    for each in (adapter, again):
        with_gradient(each, 99).step(HOW)
    assert again.digest() == adapter.digest()


def test_a_cold_optimizer_has_another_digest_and_another_course():
    """Weights alone are not the whole state."""
    adapter = with_gradient(Adapter(AdapterShape(2), 0), 1)
    adapter.step(HOW)

    cold = Adapter.of_state(adapter.shape, adapter.state(optimizer=True), optimizer=False)

    assert cold.digest() != adapter.digest()
    assert (cold.steps, cold.first) == (0, None)
    assert all((cold.weights[key] == value).all() for key, value in adapter.weights.items())


@given(cut=st.floats(0, 0.999))
def test_a_cut_file_is_noticed(cut: float):
    """At any length, reading a truncated file raises ValueError."""
    data = safetensors.pack(Adapter(AdapterShape(1), 0).state(optimizer=True))

    with pytest.raises(ValueError, match=r"truncated|Expecting|Unterminated|Invalid|delimiter|utf|Extra"):
        safetensors.unpack(data[: int(len(data) * cut)])
