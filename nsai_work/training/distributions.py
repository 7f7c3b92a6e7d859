"""Objectives of the distribution over a token's targets, where it has several: choices, or those of a teacher.

A token whose targets have a weight is a place. The model's distribution there is that of its targets among each
other, and the target distribution that of their weights.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from crucible.training import Datum

BRIER: Final = "brier"


@dataclass(frozen=True, slots=True)
class _Places:
    """The places of a datum: their indexes, and by place and target the log-probabilities, the target distribution,
    and the sum of weights."""

    indexes: Any
    model: Any
    target: Any
    weight: Any


def brier(data: Sequence[Datum], logprobs: Sequence[Any]) -> tuple[float, list[Any], dict[str, float]]:
    """The squared distance between the two distributions, in the mean over places (Brier 1950)."""
    import numpy as np

    everything = list(_places(data, logprobs))
    total = max(sum(float(each.weight.sum()) for each in everything), 1e-30)
    count = max(sum(len(each.indexes) for each in everything), 1)
    loss, right, likely, gradients = 0.0, 0, 0.0, []
    for each, given in zip(everything, logprobs, strict=True):
        p = np.exp(each.model)
        distance = p - each.target
        loss += float((each.weight * (distance**2).sum(axis=1)).sum())
        right += int((p.argmax(axis=1) == each.target.argmax(axis=1)).sum())
        likely += float((p * each.target).sum())
        slope = 2.0 * p * (distance - (distance * p).sum(axis=1, keepdims=True))
        gradient = np.zeros_like(given)
        gradient[each.indexes] = slope * each.weight[:, None] / total
        gradients.append(gradient)
    return loss / total, gradients, {"accuracy": right / count, "target_probability": likely / count}


def _places(data: Sequence[Datum], logprobs: Sequence[Any]) -> Iterator[_Places]:
    import numpy as np

    for datum, given in zip(data, logprobs, strict=True):
        if given.ndim != 2:
            raise ValueError("it needs several targets a token, such as rows with choices")
        weights = np.asarray(datum.loss_inputs["weights"], dtype=np.float64).reshape(given.shape)
        indexes = np.flatnonzero(weights.sum(axis=1))
        own, chosen = weights[indexes], given[indexes]
        sums = own.sum(axis=1)
        model = chosen - np.logaddexp.reduce(chosen, axis=1, keepdims=True)
        yield _Places(indexes, model, own / sums[:, None], sums)


DISTRIBUTION_OBJECTIVES: Final[Mapping[str, Callable[..., tuple[float, list[Any], dict[str, float]]]]] = {
    BRIER: brier,
}
"""The objectives of distributions by name."""
METRICS: Final[Mapping[str, tuple[str, ...]]] = {BRIER: ("accuracy", "target_probability")}
"""The metrics that they give."""
