"""Losses and traced losses against torch's autograd: values and gradients to 1e-5 (``make extras``)."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
import torch.fx
from torch.fx.node import _get_qualified_name

from backends.tiny_lm.losses import evaluate
from backends.tiny_lm.traced_loss import GraphNode, TracedLoss

pytestmark = pytest.mark.filterwarnings("default")  # what torch warns of on import is torch's

ROWS, VOCABULARY = 9, 17
Inputs = Mapping[str, Any]


def inputs_of(seed: int) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Logits, and inputs of every loss; sampling log-probabilities lie within 0.5 of the model's."""
    rng = np.random.default_rng(seed)
    logits = rng.standard_normal((ROWS, VOCABULARY))
    targets = rng.integers(0, VOCABULARY, ROWS)
    found = (logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)))[np.arange(ROWS), targets]
    return logits, {
        "target_tokens": targets,
        "weights": rng.uniform(-1, 1, ROWS),
        "logprobs": found + rng.uniform(-0.5, 0.5, ROWS),
        "advantages": rng.uniform(-1, 1, ROWS),
        "sequence_ratio_mask": (np.arange(ROWS) > 3).astype(float),
        "clip_low_threshold": rng.uniform(0.6, 0.95, ROWS),
        "clip_high_threshold": rng.uniform(1.05, 1.4, ROWS),
    }


def cross_entropy(logprobs: Any, given: Inputs) -> Any:
    return -(logprobs * given["weights"]).sum()


def importance_sampling(logprobs: Any, given: Inputs) -> Any:
    return -(torch.exp(logprobs - given["logprobs"]) * given["advantages"]).sum()


def clipped(ratio: Any, given: Inputs) -> Any:
    low, high = given.get("clip_low_threshold", 0.8), given.get("clip_high_threshold", 1.2)
    bounded = torch.clamp(ratio, low, high) if isinstance(low, float) else torch.clamp(ratio, min=low, max=high)
    return -torch.minimum(ratio * given["advantages"], bounded * given["advantages"]).sum()


def ppo(logprobs: Any, given: Inputs) -> Any:
    return clipped(torch.exp(logprobs - given["logprobs"]), given)


def cispo(logprobs: Any, given: Inputs) -> Any:
    low, high = given.get("clip_low_threshold", 0.8), given.get("clip_high_threshold", 1.2)
    ratio = torch.clamp(torch.exp(logprobs - given["logprobs"]), low, high)
    return -(ratio.detach() * logprobs * given["advantages"]).sum()


def dro(logprobs: Any, given: Inputs) -> Any:
    drift = logprobs - given["logprobs"]
    return -(logprobs * given["advantages"] - 0.05 / 2 * drift**2).sum()


def gspo(logprobs: Any, given: Inputs) -> Any:
    mask = given["sequence_ratio_mask"] != 0
    sequence = torch.exp((logprobs - given["logprobs"])[mask].mean()).detach()
    return clipped(sequence * torch.exp(logprobs - logprobs.detach()), given)


FORMULAS = (cross_entropy, importance_sampling, ppo, cispo, dro, gspo)
CLIPS = ("clip_low_threshold", "clip_high_threshold")


def by_torch(formula: Callable[..., Any], logits: np.ndarray, given: Inputs) -> tuple[float, np.ndarray]:
    """The value of a formula and its gradient by the logits."""
    variable = torch.tensor(logits, requires_grad=True)
    targets = torch.tensor(given["target_tokens"])
    logprobs = torch.log_softmax(variable, dim=1)[torch.arange(ROWS), targets]
    value = formula(logprobs, {name: torch.tensor(array) for name, array in given.items()})
    value.backward()
    return value.item(), variable.grad.numpy()


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("formula", FORMULAS, ids=lambda formula: formula.__name__)
def test_a_loss_is_its_public_formula(formula: Callable[..., Any], per_token: bool, seed: int) -> None:
    """With thresholds of the default, and with one for each token."""
    logits, given = inputs_of(seed)
    if not per_token:
        given = {name: value for name, value in given.items() if name not in CLIPS}
    logprobs = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))

    loss, slope = evaluate(formula.__name__, logprobs, given, {})
    value, gradient = by_torch(formula, logits, given)

    assert loss.value == pytest.approx(value, abs=1e-5)
    assert slope == pytest.approx(gradient, abs=1e-5)


def asymmetric_clip(logprobs: Any, logprobs_old: Any, advantages: Any) -> Any:
    ratio = torch.exp(torch.clamp(logprobs - logprobs_old, -20, 20))
    bounded = torch.where(advantages > 0, ratio.clamp(max=1.1), torch.maximum(ratio, ratio.detach() * 0.9))
    kept = (ratio - 1).abs() < 0.4
    each = -torch.min(ratio * advantages, bounded * advantages) * kept.float()
    return each.sum(), {"custom/kept:sum": kept.float().sum()}


def running(logprobs: Any, logprobs_old: Any, advantages: Any) -> Any:
    total = torch.cumsum(logprobs, dim=0)
    pair = torch.stack([total, logprobs_old.square()], dim=1)
    spread = torch.logsumexp(pair, dim=1) + torch.sqrt(torch.abs(total) + 1) - torch.sigmoid(total) ** 2
    return (spread.unsqueeze(0) * advantages / (2 + torch.tanh(advantages))).mean(), {"custom/t:sum": total[-1]}


def encoded(argument: Any) -> Any:
    """An argument in the encoding of the API."""
    if isinstance(argument, torch.fx.Node):
        return {"ref": argument.name}
    if isinstance(argument, tuple):
        return {"tuple": [encoded(part) for part in argument]}
    if isinstance(argument, list):
        return [encoded(part) for part in argument]
    if isinstance(argument, dict):
        return {"dict": {key: encoded(part) for key, part in argument.items()}}
    if isinstance(argument, slice):
        return {"slice": [encoded(part) for part in (argument.start, argument.stop, argument.step)]}
    return argument


def traced(function: Callable[..., Any]) -> TracedLoss:
    """The function as a client traces and sends it."""
    nodes = []
    for node in torch.fx.symbolic_trace(function).graph.nodes:
        target = _get_qualified_name(node.target) if node.op == "call_function" else str(node.target)
        args, kwargs = [encoded(part) for part in node.args], {key: encoded(v) for key, v in node.kwargs.items()}
        nodes.append(GraphNode(node.op, node.name, target.replace("_operator.", "operator."), args, kwargs))
    return TracedLoss({"logprobs": 1, "logprobs_old": 1, "advantages": 1}, nodes)


def scaled_margin(logprobs: Any, logprobs_old: Any, advantages: Any) -> Any:
    drift = (logprobs - logprobs_old)[1:]
    margin = torch.nn.functional.softplus(-0.5 * drift) + torch.nn.functional.logsigmoid(drift)
    return (margin * advantages[1:]).sum() / logprobs.shape[0], {"custom/drift:mean": drift.abs().mean()}


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("function", [scaled_margin, asymmetric_clip, running], ids=lambda one: one.__name__)
def test_a_traced_loss_is_what_torch_computes(function: Callable[..., Any], seed: int) -> None:
    """Value, metric and gradient by the log-probabilities."""
    rng = np.random.default_rng(seed)
    logprobs, old, advantages = -rng.uniform(0.1, 3, ROWS), -rng.uniform(0.1, 3, ROWS), rng.uniform(-1, 1, ROWS)
    variable = torch.tensor(logprobs, requires_grad=True)

    loss = traced(function).function.compute(logprobs, {"logprobs_old": old, "advantages": advantages}, {})
    value, metrics = function(variable, torch.tensor(old), torch.tensor(advantages))
    value.backward()

    assert loss.value == pytest.approx(value.item(), abs=1e-5)
    assert loss.by_target == pytest.approx(variable.grad.numpy(), abs=1e-5)
    assert {name: metric.item() for name, metric in metrics.items()} == pytest.approx(loss.metrics)
    assert math.isfinite(loss.value)
