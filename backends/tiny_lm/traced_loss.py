"""Losses that users wrote and a client traced: a graph of listed operations, computed and differentiated here."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np

from backends.tiny_lm.autodiff import Variable, lifted, slope
from backends.tiny_lm.loss_operations import BY_NAME, Operation, function_named, method_named
from backends.tiny_lm.losses import Config, Inputs, Loss, LossFunction
from backends.tiny_lm.network import Array

MAX_NODES: Final = 2000
_METRIC: Final = re.compile(r"custom/[a-z0-9_./-]{1,64}:(sum|mean)")
_FLOATS: Final = {"inf": np.inf, "-inf": -np.inf, "nan": np.nan}
_NAMES: Final = ("dtype", "device", "layout", "memory_format")


class GraphError(ValueError):
    """A graph is malformed, has an operation that is not listed, or fails on its inputs; the text says where."""


@dataclass(frozen=True, slots=True)
class GraphNode:
    """A node as torch.fx records it, with its arguments in the encoding of the API."""

    op: str
    name: str
    target: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]


@dataclass(frozen=True)
class TracedLoss:
    """A loss of one sequence: ``inputs`` maps the names of its inputs, ``logprobs`` first, to their ranks.

    Raises:
        GraphError: the graph is malformed, or has an operation that is not listed.
    """

    inputs: Mapping[str, int]
    nodes: Sequence[GraphNode]

    def __post_init__(self) -> None:
        if len(self.nodes) > MAX_NODES:
            raise GraphError(f"{len(self.nodes)} nodes; at most {MAX_NODES} are allowed")
        if next(iter(self.inputs), None) != "logprobs" or self.inputs["logprobs"] == 0:
            raise GraphError("the first input must be logprobs, of rank 1 or 2")
        known: set[str] = set()
        for number, node in enumerate(self.nodes):
            if node.name in known:
                raise GraphError(f"node {node.name!r} appears twice")
            for name in _references([*node.args, *node.kwargs.values()]):
                if name not in known:
                    raise GraphError(f"node {node.name!r} refers to {name!r}, which is not before it")
            known.add(node.name)
            self._check(node, last=number == len(self.nodes) - 1)
        placeholders = [node.target for node in self.nodes if node.op == "placeholder"]
        if placeholders != list(self.inputs):
            raise GraphError(f"the placeholders are {placeholders}, the inputs {list(self.inputs)}")

    def _check(self, node: GraphNode, *, last: bool) -> None:
        if last != (node.op == "output"):
            raise GraphError("the output must be the last node, and the only one")
        if node.op in ("call_function", "call_method"):
            _operation(node)
        elif node.op not in ("placeholder", "output"):
            raise GraphError(f"node {node.name!r}: {node.op} is not allowed")

    @cached_property
    def function(self) -> LossFunction:
        """The loss in the form of the built-in ones. Its ``compute`` raises GraphError."""
        names = tuple(name for name in self.inputs if name != "logprobs")
        return LossFunction(("target_tokens", *names), (), frozenset(), self._compute)

    def _compute(self, logprobs: Array, inputs: Inputs, _config: Config) -> Loss:
        source = Variable(logprobs.astype(np.float64))
        values: dict[str, Any] = {}
        for node in self.nodes:
            try:
                values[node.name] = self._value(node, source, inputs, values)
            except GraphError:
                raise
            except (TypeError, ValueError, IndexError, KeyError, ArithmeticError, AttributeError) as error:
                raise GraphError(f"node {node.name!r} ({node.target}): {error}") from error
        loss, metrics = values[self.nodes[-1].name]
        by_target = slope(loss, source).astype(logprobs.dtype)
        return Loss(float(loss.value), {"logprobs": logprobs}, by_target, metrics)

    def _value(self, node: GraphNode, source: Variable, inputs: Inputs, values: Mapping[str, Any]) -> Any:
        if node.op == "placeholder":
            variable = (
                source if node.target == "logprobs" else _input(inputs[node.target], self.inputs[node.target])
            )
            if variable.value.ndim != self.inputs[node.target]:
                raise GraphError(f"{node.target} has rank {variable.value.ndim}, not {self.inputs[node.target]}")
            return variable
        arguments = [_decoded(argument, values) for argument in node.args]
        if node.op == "output":
            return _outcome(arguments)
        options = {key: _decoded(argument, values) for key, argument in node.kwargs.items()}
        return _operation(node)(*arguments, **options)


def _input(value: Any, rank: int) -> Variable:
    array = np.asarray(value)
    if rank == 0 and array.size == 1:
        array = array.reshape(())  # protobuf writes a number as it writes an array of one
    return Variable(array.astype(np.float64) if array.dtype.kind == "f" else array)


def _operation(node: GraphNode) -> Operation:
    find = function_named if node.op == "call_function" else method_named
    operation = find(node.target)
    if operation is None:
        raise GraphError(
            f"node {node.name!r}: the operation {node.target!r} is not supported; there are {', '.join(BY_NAME)}"
        )
    return operation


def _outcome(arguments: Sequence[Any]) -> tuple[Variable, dict[str, float]]:
    [returned] = arguments
    loss, metrics = returned
    loss = lifted(loss)
    if loss.value.ndim != 0:
        raise GraphError(f"the loss must be a scalar; its shape is {list(loss.value.shape)}")
    numbers: dict[str, float] = {}
    for name, value in metrics.items():
        if not _METRIC.fullmatch(name):
            raise GraphError(f"the metric {name!r} must be named custom/NAME:sum or custom/NAME:mean")
        numbers[name] = float(lifted(value).value)
    return loss, numbers


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for part in value for name in _references(part)]
    if isinstance(value, dict):
        if list(value) == ["ref"]:
            return [str(value["ref"])]
        return [name for part in value.values() for name in _references(part)]
    return []


def _decoded(value: Any, values: Mapping[str, Any]) -> Any:
    """An argument from its encoding: JSON scalars and lists, else objects with one key that says the kind."""
    if isinstance(value, list):
        return [_decoded(part, values) for part in value]
    if not isinstance(value, dict):
        return value
    if len(value) != 1:
        raise GraphError(f"an argument has the keys {sorted(value)}; expected one")
    [(kind, content)] = value.items()
    match kind:
        case "ref":
            return values[content]
        case "tuple":
            return tuple(_decoded(part, values) for part in content)
        case "dict":
            return {key: _decoded(part, values) for key, part in content.items()}
        case "slice":
            return slice(*(_decoded(part, values) for part in content))
        case "ellipsis":
            return ...
        case "float":
            return _FLOATS[content]
        case _ if kind in _NAMES:
            return str(content)
    raise GraphError(f"an argument of the kind {kind!r}")
