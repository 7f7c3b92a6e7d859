"""Tracing of a loss that is written with torch into the graph that the API has for it. Requires torch."""

import math
from typing import Any, Final

from backends.tinkex.client.custom_losses.loss_handle import DatumLoss
from backends.tinkex.errors import invalid
from backends.tinkex.types.requests import CustomLossGraph, CustomLossNode
from crucible.errors import InvalidRequest, Unsupported

_MODULES: Final = frozenset({"torch", "math", "operator", "_operator"})
_LEAVES_TORCH: Final = frozenset({"item", "numpy", "tolist", "backward"})


def traced_graph(loss: DatumLoss, name: str) -> CustomLossGraph:
    """Return the graph of a loss: its calls of functions of torch, math and operator, and of tensor methods.

    Raises:
        Unsupported: torch is not installed.
        InvalidRequest: the loss branches on values, captures tensors, or calls something else.
    """
    try:
        import torch.fx
    except ImportError as error:
        raise Unsupported(
            "a loss given as a function needs the package torch; give its graph as a CustomLossGraph",
            backend="tinkex",
        ) from error
    try:
        module = torch.fx.symbolic_trace(loss)
    except Exception as error:
        raise _refused(name, f"torch.fx cannot trace it: {error}") from error
    return CustomLossGraph(nodes=[_node(node, name) for node in module.graph.nodes])


def _node(node: Any, name: str) -> CustomLossNode:
    if node.op in ("call_module", "get_attr"):
        raise _refused(name, f"it uses {node.target!r}, a module or tensor from outside its inputs")
    if node.op == "call_method" and node.target in _LEAVES_TORCH:
        raise _refused(name, f"it calls {node.target}(), which leaves torch; keep every value a tensor")
    return CustomLossNode(
        op=node.op,
        name=node.name,
        target=_function_name(node.target, name) if node.op == "call_function" else str(node.target),
        args=[_argument(value, name) for value in node.args],
        kwargs={key: _argument(value, name) for key, value in node.kwargs.items()},
    )


def _function_name(function: Any, name: str) -> str:
    from torch.fx.node import _get_qualified_name

    if function is not getattr:
        module = (getattr(function, "__module__", None) or "").partition(".")[0]
        if module not in _MODULES:
            raise _refused(name, f"it calls {function!r}; it may call functions of torch, math and operator")
    qualified: str = _get_qualified_name(function)
    return qualified.replace("_operator.", "operator.", 1) if qualified.startswith("_operator.") else qualified


def _argument(value: Any, name: str) -> Any:
    """Encode an argument: what JSON lacks becomes an object of one key."""
    import torch

    if isinstance(value, torch.fx.Node):
        return {"ref": value.name}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(value)}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_argument(item, name) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_argument(item, name) for item in value]}
    if isinstance(value, dict):
        return {"dict": {str(key): _argument(item, name) for key, item in value.items()}}
    if isinstance(value, slice):
        return {"slice": [_argument(item, name) for item in (value.start, value.stop, value.step)]}
    if value is ...:
        return {"ellipsis": True}
    for kind in ("dtype", "device", "layout", "memory_format"):
        if isinstance(value, getattr(torch, kind)):
            return {kind: str(value).removeprefix("torch.")}
    raise _refused(name, f"an argument of type {type(value).__name__} cannot be sent")


def _refused(name: str, reason: str) -> InvalidRequest:
    return invalid("loss", name, reason)
