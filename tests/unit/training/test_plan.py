"""The plan: the step number alone determines batch and learning rate."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.payloads import TrainingStep
from nsai_work.training.plan import Plan
from nsai_work.training.sources.batches import batch_indexes, epoch_order

ORDER_0 = [6, 1, 5, 7, 3, 4, 2, 0]
ORDER_1 = [4, 5, 1, 7, 3, 2, 6, 0]
ORDER_SEED_1 = [4, 0, 1, 6, 3, 2, 5, 7]


def plan(examples: int, **fields: object) -> Plan:
    """Build a plan for a number of examples."""
    return Plan.of(TrainingStep.model_validate({"base_model": "m", "data": {"path": "x"}, **fields}), examples)


@given(
    examples=st.integers(1, 60),
    batch_size=st.integers(1, 70),
    epochs=st.integers(1, 4),
    seed=st.integers(0, 2**31 - 1),
)
def test_every_epoch_shows_every_example_once(examples: int, batch_size: int, epochs: int, seed: int) -> None:
    """For any data size and batch size."""
    made = plan(examples, batch_size=batch_size, epochs=epochs, seed=seed)
    assert made.total_steps == epochs * made.steps_per_epoch
    shown: dict[int, list[int]] = {}
    for step in range(1, made.total_steps + 1):
        assert 1 <= len(batch_indexes(made, step)) <= batch_size
        shown.setdefault(made.epoch(step), []).extend(batch_indexes(made, step))
    assert set(shown) == set(range(epochs))
    assert all(Counter(order) == Counter(range(examples)) for order in shown.values())


def test_the_order_is_for_all_time() -> None:
    """A resume by a later version, or on another machine, must use the same order."""
    assert list(epoch_order(8, 0, 0)) == ORDER_0
    assert list(epoch_order(8, 0, 1)) == ORDER_1
    assert list(epoch_order(8, 1, 0)) == ORDER_SEED_1


@pytest.mark.parametrize(
    ("fields", "steps"),
    [
        ({"max_steps": 7}, 7),
        ({"epochs": 2}, 6),
        ({"max_steps": 100, "epochs": 2}, 6),
        ({"max_steps": 2, "epochs": 2}, 2),
        ({}, 3),
    ],
    ids=["steps", "epochs", "fewer epochs", "fewer steps", "neither"],
)
def test_the_lesser_limit_counts(fields: dict[str, int], steps: int) -> None:
    """Ten examples in batches of four are three steps per epoch."""
    assert plan(10, batch_size=4, **fields).total_steps == steps


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [
        ({}, [1.0, 1.0, 1.0, 1.0]),
        ({"shape": "linear"}, [1.0, 0.75, 0.5, 0.25]),
        ({"shape": "linear", "warmup_steps": 2}, [0.5, 1.0, 1.0, 0.5]),
        ({"shape": "cosine"}, [1.0, 0.854, 0.5, 0.146]),
        ({"warmup_steps": 8}, [0.25, 0.5, 0.75, 1.0]),
    ],
    ids=["constant", "linear", "warm-up", "cosine", "longer warm-up than run"],
)
def test_the_learning_rate(schedule: dict[str, object], rates: list[float]) -> None:
    """Warm-up, constant and decay; never 0, which optimizers reject."""
    made = plan(4, batch_size=1, max_steps=4, schedule=schedule, optimizer={"learning_rate": 1.0})
    assert [round(made.learning_rate(step), 3) for step in range(1, 5)] == rates


@given(
    steps=st.integers(1, 200), warmup=st.integers(0, 300), shape=st.sampled_from(["constant", "linear", "cosine"])
)
def test_the_learning_rate_stays_above_0_and_within_its_top(steps: int, warmup: int, shape: str) -> None:
    """For any schedule."""
    made = plan(3, max_steps=steps, schedule={"shape": shape, "warmup_steps": warmup})
    assert all(0 < made.optimizer_at(step).learning_rate <= 1e-4 for step in range(1, steps + 1))
