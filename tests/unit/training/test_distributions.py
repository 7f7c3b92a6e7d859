"""Objectives of the distribution over a token's targets: values by hand, and gradients by differences."""

from array import array
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from crucible.training import Datum, ForwardResult
from nsai_work.errors import InvalidJob
from nsai_work.payloads import ObjectiveSpec
from nsai_work.training.distributions import DISTRIBUTION_OBJECTIVES, METRICS
from nsai_work.training.objectives import Objective


def datum_of(weights: list[list[float]]) -> Datum:
    """A datum with several targets a token."""
    flat = [value for row in weights for value in row]
    inputs = {"target_tokens": array("i", range(len(flat))), "weights": array("f", flat)}
    return Datum(array("i", [1] * len(weights)), inputs)


DATA = [
    datum_of([[0.0, 0.0, 0.0], [0.5, 0.25, 0.25]]),
    datum_of([[0.0, 2.0], [0.0, 0.0], [1.0, 0.0]]),
]
LOGPROBS = [
    np.log([[0.2, 0.3, 0.1], [0.1, 0.3, 0.2]]),
    np.log([[0.1, 0.3], [0.5, 0.2], [0.4, 0.4]]),
]


def test_brier_is_the_mean_squared_distance() -> None:
    """Over places, with their weights."""
    loss, _, metrics = DISTRIBUTION_OBJECTIVES["brier"](DATA, LOGPROBS)
    first = (1 / 6 - 0.5) ** 2 + (1 / 2 - 0.25) ** 2 + (1 / 3 - 0.25) ** 2
    second, third = 2 * (0.25**2 + 0.25**2), 0.5**2 + 0.5**2

    assert loss == pytest.approx((first + second + third) / 4)
    assert metrics == pytest.approx(
        {"accuracy": 2 / 3, "target_probability": (1 / 12 + 1 / 8 + 1 / 12 + 0.75 + 0.5) / 3}
    )


@pytest.mark.parametrize("name", DISTRIBUTION_OBJECTIVES)
def test_gradients_are_those_of_the_loss(name: str) -> None:
    """By central differences, in every entry; entries of tokens without a weight have none."""
    objective: Callable[..., Any] = DISTRIBUTION_OBJECTIVES[name]
    _, gradients, metrics = objective(DATA, LOGPROBS)
    for number, given in enumerate(LOGPROBS):
        for place in np.ndindex(given.shape):
            losses = []
            for step in (1e-6, -1e-6):
                moved = [each.copy() for each in LOGPROBS]
                moved[number][place] += step
                losses.append(objective(DATA, moved)[0])
            assert gradients[number][place] == pytest.approx((losses[0] - losses[1]) / 2e-6, abs=1e-7)
    assert tuple(metrics) == METRICS[name]


@pytest.mark.parametrize("name", DISTRIBUTION_OBJECTIVES)
def test_one_target_a_token_is_no_distribution(name: str) -> None:
    """The job fails, and says what it needs."""
    datum = Datum(array("i", [1]), {"target_tokens": array("i", [2]), "weights": array("f", [1.0])})
    with pytest.raises(InvalidJob, match="needs several targets a token"):
        Objective(ObjectiveSpec(name=name)).evaluate([datum], ForwardResult([[-1.0]]))


@pytest.mark.parametrize("name", DISTRIBUTION_OBJECTIVES)
def test_a_log_probability_of_zero_that_counts_nowhere_is_no_matter(name: str) -> None:
    """A token without a weight may have any."""
    forward = [each.ravel().tolist() for each in LOGPROBS]
    forward[0][0] = float("-inf")
    value = Objective(ObjectiveSpec(name=name)).evaluate(DATA, ForwardResult(forward))

    assert [len(datum.loss_inputs["weights"]) for datum in value.batch] == [6, 6]
