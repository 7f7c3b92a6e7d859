"""Objectives: losses that the driver computes, as functions of log-probabilities and data.

A step with an objective is a forward pass, the objective here, and then an ordinary step whose gradient is that of
the objective: the cross entropy ``L = -sum(weights * logprobs)`` has the gradient ``-weights`` with respect to the
log-probabilities, so the weights ``-dC/dlogprobs`` make it the gradient of the objective C.

An objective is a function of the entry-point group ``nsai_work.objectives``, or ``package.module:function`` of a
module that the worker may import::

    def brier(data, logprobs, *, scale=1.0):
        return loss, gradients, {"accuracy": 0.5}

``data`` are the datums of the batch, ``logprobs`` one float64 array of their targets each, shape (n,), or (n, k)
where each token has k targets. It returns the loss, one array of ``dloss/dlogprobs`` for each datum, and metrics.
It must be deterministic: a takeover that comes to another gradient restores a checkpoint.
"""

import re
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Final

from crucible.environments.registry import load_target
from crucible.errors import CommandMissing, InvalidRequest, RunCorrupted
from crucible.losses import targets_per_token
from crucible.runtime.plugin_code import plugin_code
from crucible.training import Datum, ForwardResult
from crucible.values.suggestions import known_names
from nsai_work.errors import InvalidJob
from nsai_work.payloads import ObjectiveSpec
from nsai_work.training.distributions import DISTRIBUTION_OBJECTIVES

GROUP: Final = "nsai_work.objectives"
FORWARD_NAME: Final = "objective"
"""The name of the forward passes of steps with an objective."""

_TARGET: Final = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
ObjectiveFunction = Callable[..., tuple[float, Sequence[Any], Mapping[str, float]]]


@dataclass(frozen=True, slots=True)
class ObjectiveResult:
    """The value of an objective for a batch, and the batch whose ``cross_entropy`` has its gradient."""

    loss: float
    metrics: Mapping[str, float]
    batch: Sequence[Datum]


class Objective:
    """An objective with its settings. The constructor imports its function, from the modules in ``allow`` if it is
    no entry point: call it in a thread.

    Raises:
        InvalidJob: no installed package registers the objective, its import fails, or it is no function.
        CommandMissing: this process may not import its module, or lacks it.
    """

    def __init__(
        self, spec: ObjectiveSpec, function: ObjectiveFunction | None = None, *, allow: Sequence[str] = ()
    ) -> None:
        self._name = spec.name
        self._settings = dict(spec.settings)
        self._function = _load(spec.name, allow) if function is None else function

    def evaluate(self, batch: Sequence[Datum], forward: ForwardResult) -> ObjectiveResult:
        """Compute the objective; blocking.

        Raises:
            RunCorrupted: a log-probability of a trained token is not finite.
            InvalidJob: the function raises, or returns something else than it must.
        """
        import numpy as np

        logprobs = [_shaped(*pair) for pair in zip(batch, forward.logprobs, strict=True)]
        if not all(
            np.isfinite(each.ravel()[np.asarray(datum.loss_inputs["weights"]) != 0]).all()
            for datum, each in zip(batch, logprobs, strict=True)
        ):
            raise RunCorrupted("a log-probability of the forward pass is not finite")
        try:
            loss, gradients, metrics = self._function(batch, logprobs, **self._settings)
            weights = [-np.asarray(gradient, dtype=np.float64) for gradient in gradients]
            loss, metrics = float(loss), {str(name): float(value) for name, value in metrics.items()}
        except Exception as exc:
            raise self._failed(f"it raised {type(exc).__name__}: {exc}") from exc
        if [each.shape for each in weights] != [each.shape for each in logprobs]:
            raise self._failed("it must return a gradient array for each array of log-probabilities, of its shape")
        if not all(np.isfinite(each).all() for each in weights):
            raise self._failed("a gradient is NaN or infinite")
        return ObjectiveResult(loss, metrics, [_weighted(*pair) for pair in zip(batch, weights, strict=True)])

    def _failed(self, reason: str) -> InvalidJob:
        return InvalidJob(
            f"payload.objective: {self._name}: {reason}", details={"field": "payload.objective", "name": self._name}
        )


def _shaped(datum: Datum, logprobs: Sequence[float]) -> Any:
    import numpy as np

    values, count = np.asarray(logprobs, dtype=np.float64), targets_per_token(datum)
    return values if count == 1 else values.reshape(-1, count)


def _weighted(datum: Datum, weights: Any) -> Datum:
    targets = datum.loss_inputs["target_tokens"]
    # -0.0 and 0.0 are the same weight, and shall have the same digest
    return replace(
        datum, loss_inputs={"target_tokens": targets, "weights": array("f", (weights + 0.0).ravel().tolist())}
    )


def require_objective(name: str) -> EntryPoint | None:
    """Return the entry point of an objective; None for a built-in, and for a function by its module. Imports
    nothing.

    Raises:
        InvalidJob: no installed package registers it.
    """
    if name in BUILT_IN:
        return None
    points = [point for point in entry_points(group=GROUP) if point.name == name]
    if points:
        return points[0]
    if is_target(name):
        return None
    names = {*BUILT_IN, *(point.name for point in entry_points(group=GROUP))}
    known = known_names(name, sorted(names), are="objectives here:")
    raise InvalidJob.of("payload.objective.name", name, f"{known}; or package.module:function")


def is_target(name: str) -> bool:
    """Return whether a name is that of a function in a module."""
    return _TARGET.fullmatch(name) is not None


def _load(name: str, allow: Sequence[str]) -> ObjectiveFunction:
    point = require_objective(name)
    if point is None and name in BUILT_IN:
        return BUILT_IN[name]
    if point is None:
        try:
            found: ObjectiveFunction = load_target("payload.objective.name", name, allow=allow)
        except CommandMissing:
            raise
        except InvalidRequest as error:
            raise InvalidJob(error.message, details=error.details) from error
        if not callable(found):
            raise InvalidJob.of("payload.objective.name", name, "it must name a function")
        return found
    try:
        with plugin_code():
            function: ObjectiveFunction = point.load()
    except Exception as exc:
        raise InvalidJob.of("payload.objective.name", name, f"{point.value} cannot be imported: {exc}") from exc
    return function


BUILT_IN: Final[Mapping[str, ObjectiveFunction]] = {**DISTRIBUTION_OBJECTIVES}
"""The objectives of this package."""
