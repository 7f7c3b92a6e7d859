"""Reverse-mode differentiation of scalar functions of arrays, for the operations that losses are made of."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Values = NDArray[Any]
MAX_SIZE: Final = 1 << 24
"""The most elements that one result may have."""


class Variable:
    """An array, with the variables that it was computed from and the rule by which slopes go back to each."""

    __slots__ = ("back", "value")

    def __init__(self, value: Any, back: Sequence[tuple["Variable", Callable[[Values], Values]]] = ()) -> None:
        self.value: Values = np.asarray(value)
        self.back = [pair for pair in back if pair[0].is_float] if self.is_float else []

    @property
    def is_float(self) -> bool:
        """Check for floating-point values, the only ones with a derivative."""
        return self.value.dtype.kind == "f"


def lifted(value: Any) -> Variable:
    """The value as a variable; a number is a constant."""
    if isinstance(value, Variable):
        return value
    array = np.asarray(value)
    if array.dtype.kind not in "bif" or array.size > MAX_SIZE:
        raise TypeError(f"{value!r} is no number")
    return Variable(array)


def slope(of: Variable, by: Variable) -> Values:
    """The derivative of a scalar variable by another."""
    order: list[Variable] = []
    seen: set[int] = set()
    stack: list[tuple[Variable, bool]] = [(of, False)]
    while stack:
        variable, done = stack.pop()
        if done:
            order.append(variable)
        elif id(variable) not in seen:
            seen.add(id(variable))
            stack.append((variable, True))
            stack += [(parent, False) for parent, _ in variable.back]
    slopes: dict[int, Values] = {id(of): np.ones_like(of.value)}
    for variable in reversed(order):
        own = slopes.get(id(variable))
        if own is None:
            continue
        for parent, rule in variable.back:
            share = rule(own)
            earlier = slopes.get(id(parent))
            slopes[id(parent)] = share if earlier is None else earlier + share
    found = slopes.get(id(by))
    return np.zeros_like(by.value) if found is None else found


def checked_size(*shapes: tuple[int, ...]) -> None:
    """Raise ValueError if arrays of these shapes broadcast to more than ``MAX_SIZE`` elements, or do not."""
    size = 1
    for side in np.broadcast_shapes(*shapes):
        size *= side
    if size > MAX_SIZE:
        raise ValueError(f"a result of {size} elements; at most {MAX_SIZE} are allowed")


def folded(slope: Values, shape: tuple[int, ...]) -> Values:
    """A slope summed over the axes along which an array of ``shape`` was broadcast."""
    extra = slope.ndim - len(shape)
    summed = slope.sum(axis=tuple(range(extra))) if extra else slope
    axes = tuple(axis for axis, side in enumerate(shape) if side == 1 and summed.shape[axis] != 1)
    return summed.sum(axis=axes, keepdims=True) if axes else summed


def unary(function: Callable[[Values], Values], derivative: Callable[[Values, Values], Values]) -> Any:
    """An operation on one array, by element; ``derivative`` takes the argument and the result."""

    def apply(x: Any) -> Variable:
        argument = lifted(x)
        floats = argument.value.astype(np.float64) if not argument.is_float else argument.value
        result = function(floats)
        return Variable(result, [(argument, lambda own: own * derivative(floats, result))])

    return apply


def binary(
    function: Callable[[Values, Values], Values],
    by_left: Callable[[Values, Values, Values], Values],
    by_right: Callable[[Values, Values, Values], Values],
) -> Any:
    """An operation on two arrays that broadcast; the derivatives take the arguments and the result."""

    def apply(x: Any, y: Any) -> Variable:
        left, right = lifted(x), lifted(y)
        checked_size(left.value.shape, right.value.shape)
        result = np.asarray(function(left.value, right.value))
        return Variable(
            result,
            [
                (left, lambda own: folded(own * by_left(left.value, right.value, result), left.value.shape)),
                (right, lambda own: folded(own * by_right(left.value, right.value, result), right.value.shape)),
            ],
        )

    return apply


def compared(function: Callable[..., Any]) -> Any:
    """An operation without a derivative."""

    def apply(*arguments: Any) -> Variable:
        values = [lifted(argument).value for argument in arguments]
        checked_size(*(value.shape for value in values))
        return Variable(function(*values))

    return apply
