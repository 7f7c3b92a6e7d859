"""The operations that a traced loss may use, by their names in torch, math and operator, on ``Variable``."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np

from backends.tiny_lm.autodiff import Values, Variable, binary, checked_size, compared, folded, lifted, unary

Operation = Callable[..., Any]


def _ones(x: Values, *_: Values) -> Values:
    return np.ones_like(x, dtype=np.float64)


def _sigmoid(x: Values) -> Values:
    return np.asarray(0.5 * (1 + np.tanh(x / 2)))


def _softplus(x: Values) -> Values:
    return np.asarray(np.logaddexp(x, 0.0))


def _share(chosen: Values, tied: Values) -> Values:
    """The slope of the greater or lesser of two: all of it, or half where they are equal."""
    return np.where(tied, 0.5, chosen)


def _number(value: Any) -> Any:
    """The value of a scalar variable that stands for a number, as an axis or a size."""
    return value.value.item() if isinstance(value, Variable) else value


def _axes(dim: Any, ndim: int) -> tuple[int, ...]:
    dim = _number(dim)
    listed = range(ndim) if dim is None else [dim] if isinstance(dim, int) else map(_number, dim)
    return tuple(int(axis) % max(ndim, 1) for axis in listed) if ndim else ()


def _sum(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Variable:
    source = lifted(x)
    axes = _axes(dim, source.value.ndim)
    total = source.value.sum(axis=axes, keepdims=keepdim)

    def back(own: Values) -> Values:
        wide = own if keepdim else np.expand_dims(own, axes) if axes else own
        return np.broadcast_to(wide, source.value.shape)

    return Variable(total, [(source, back)])


def _mean(x: Any, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Variable:
    total = _sum(lifted(x), dim, keepdim)
    count = max(lifted(x).value.size, 1) / max(total.value.size, 1)
    result: Variable = _DIVIDE(total, float(count) if lifted(x).value.size else 0.0)
    return result


def _extreme(which: Callable[..., Any], pairwise: Operation) -> Operation:
    def apply(x: Any, other: Any = None) -> Variable:
        if other is not None:
            result: Variable = pairwise(x, other)
            return result
        source = lifted(x)
        best = which(source.value)
        tied = source.value == best
        return Variable(best, [(source, lambda own: own * tied / tied.sum())])

    return apply


def _clamp(x: Any, min: Any = None, max: Any = None) -> Variable:  # noqa: A002 (torch's names)
    result = lifted(x)
    # at a bound torch passes the whole slope on to a tensor that a number limits
    for bound, limit, inside in ((min, np.maximum, np.greater_equal), (max, np.minimum, np.less_equal)):
        if bound is not None:
            result = _limited(result, lifted(bound), limit, inside)
    return result


def _limited(x: Variable, bound: Variable, limit: Any, inside: Any) -> Variable:
    checked_size(x.value.shape, bound.value.shape)
    kept = inside(x.value, bound.value)
    return Variable(
        limit(x.value, bound.value),
        [
            (x, lambda own: folded(own * kept, x.value.shape)),
            (bound, lambda own: folded(own * ~kept, bound.value.shape)),
        ],
    )


def _where(condition: Any, x: Any, y: Any) -> Variable:
    chosen, left, right = lifted(condition).value.astype(bool), lifted(x), lifted(y)
    checked_size(chosen.shape, left.value.shape, right.value.shape)
    return Variable(
        np.where(chosen, left.value, right.value),
        [
            (left, lambda own: folded(np.where(chosen, own, 0.0), left.value.shape)),
            (right, lambda own: folded(np.where(chosen, 0.0, own), right.value.shape)),
        ],
    )


def _masked_fill(x: Any, mask: Any, value: Any) -> Variable:
    return _where(mask, value, x)


def _getitem(x: Any, index: Any) -> Any:
    if isinstance(x, tuple | list):
        return x[int(_number(index))]
    source = lifted(x)
    parts = tuple(_place(part) for part in (index if isinstance(index, tuple) else (index,)))

    def back(own: Values) -> Values:
        spread = np.zeros(source.value.shape)
        np.add.at(spread, parts, own)
        return spread

    result = source.value[parts]
    checked_size(result.shape)
    return Variable(result, [(source, back)])


def _place(part: Any) -> Any:
    if isinstance(part, Variable):
        return part.value
    if isinstance(part, slice):
        return slice(_number(part.start), _number(part.stop), _number(part.step))
    return part


def _shaped(change: Callable[..., Any]) -> Operation:
    """An operation that moves elements without changing them."""

    def apply(x: Any, *arguments: Any) -> Variable:
        source = lifted(x)
        shape = source.value.shape
        plain = [tuple(map(_number, a)) if isinstance(a, tuple | list) else _number(a) for a in arguments]
        return Variable(change(source.value, *plain), [(source, lambda own: own.reshape(shape))])

    return apply


def _reshape(x: Values, *shape: Any) -> Values:
    return x.reshape(shape[0] if len(shape) == 1 and isinstance(shape[0], tuple) else shape)


def _squeeze(x: Values, dim: int | None = None) -> Values:
    return x.squeeze() if dim is None else x.squeeze(dim) if x.shape[dim] == 1 else x


def _joined(parts: Sequence[Any], axis: int, join: Callable[..., Values], *, new_axis: bool) -> Variable:
    sources = [lifted(part) for part in parts]
    result = join([source.value for source in sources], axis=axis)
    checked_size(result.shape)
    ends = np.cumsum([1 if new_axis else source.value.shape[axis] for source in sources])

    def back(number: int) -> Callable[[Values], Values]:
        start, end = (int(ends[number - 1]) if number else 0), int(ends[number])
        if new_axis:
            return lambda own: np.take(own, start, axis=axis)
        return lambda own: np.take(own, range(start, end), axis=axis)

    return Variable(result, [(source, back(number)) for number, source in enumerate(sources)])


def _stack(tensors: Sequence[Any], dim: int = 0) -> Variable:
    return _joined(tensors, dim, np.stack, new_axis=True)


def _cat(tensors: Sequence[Any], dim: int = 0) -> Variable:
    return _joined(tensors, dim, np.concatenate, new_axis=False)


def _cumsum(x: Any, dim: int) -> Variable:
    source = lifted(x)
    back = lambda own: np.flip(np.flip(own, dim).cumsum(dim), dim)  # noqa: E731
    return Variable(source.value.cumsum(dim), [(source, back)])


def _logsumexp(x: Any, dim: Any, keepdim: bool = False) -> Variable:
    source = lifted(x)
    axes = _axes(dim, source.value.ndim)
    top = source.value.max(axis=axes, keepdims=True)
    shifted = np.exp(source.value - top)
    total = shifted.sum(axis=axes, keepdims=True)
    wide = np.log(total) + top
    result = wide if keepdim else wide.squeeze(axes)
    return Variable(
        result, [(source, lambda own: (own if keepdim else np.expand_dims(own, axes)) * shifted / total)]
    )


def _detach(x: Any) -> Variable:
    return Variable(lifted(x).value)


def _same(x: Any, *_arguments: Any, **_options: Any) -> Variable:
    """A change of type, device or layout; all floats are doubles here."""
    source = lifted(x)
    if source.is_float:
        return source
    return Variable(source.value.astype(np.float64))


def _to(x: Any, *arguments: Any, dtype: Any = None, device: Any = None) -> Variable:
    wanted = next((one for one in (dtype, *arguments) if isinstance(one, str)), "float32")
    if wanted == "bool":
        return _bool(x)
    if wanted.startswith("int"):
        return _long(x)
    return lifted(x) if wanted == "cpu" else _same(x)


def _bool(x: Any) -> Variable:
    return Variable(lifted(x).value.astype(bool))


def _long(x: Any) -> Variable:
    return Variable(lifted(x).value.astype(np.int64))


def _size(x: Any, dim: Any = None) -> Any:
    shape = lifted(x).value.shape
    return shape if dim is None else shape[_number(dim)]


def _getattr(x: Any, name: str) -> Any:
    value = lifted(x).value
    known = {"shape": value.shape, "ndim": value.ndim, "dtype": "float32", "device": "cpu"}
    if name not in known:
        raise ValueError(f"attribute {name!r} is not supported; known are {', '.join(known)}")
    return known[name]


def _filled(value: float) -> Operation:
    def apply(x: Any, dtype: Any = None, device: Any = None) -> Variable:
        return Variable(np.full(lifted(x).value.shape, value, dtype=np.float64))

    return apply


_ADD: Final = binary(np.add, _ones, lambda x, y, r: np.ones_like(r))
_SUBTRACT: Final = binary(np.subtract, _ones, lambda x, y, r: -np.ones_like(r))
_MULTIPLY: Final = binary(np.multiply, lambda x, y, r: y, lambda x, y, r: x)
_DIVIDE: Final = binary(
    lambda x, y: np.true_divide(x, y), lambda x, y, r: 1 / np.asarray(y, float), lambda x, y, r: -r / y
)
_POWER: Final = binary(
    lambda x, y: np.power(np.asarray(x, float), y),
    lambda x, y, r: np.where(y == 0, 0.0, y * np.power(np.asarray(x, float), y - 1.0)),
    lambda x, y, r: r * np.log(np.where(x > 0, x, 1.0)),
)
_GREATER: Final = binary(np.maximum, lambda x, y, r: _share(x > y, x == y), lambda x, y, r: _share(y > x, x == y))
_LESSER: Final = binary(np.minimum, lambda x, y, r: _share(x < y, x == y), lambda x, y, r: _share(y < x, x == y))


def _added(sign: Operation) -> Operation:
    def apply(x: Any, y: Any, *, alpha: Any = 1) -> Any:
        return sign(x, y if alpha == 1 else _MULTIPLY(y, alpha))

    return apply


BY_NAME: Final[Mapping[str, Operation]] = {
    "add": _added(_ADD), "sub": _added(_SUBTRACT), "mul": _MULTIPLY, "truediv": _DIVIDE, "div": _DIVIDE,
    "pow": _POWER, "rsub": lambda x, y: _SUBTRACT(y, x),
    "maximum": _GREATER, "minimum": _LESSER, "max": _extreme(np.max, _GREATER), "min": _extreme(np.min, _LESSER),
    "amax": _extreme(np.max, _GREATER), "amin": _extreme(np.min, _LESSER),
    "exp": unary(np.exp, lambda x, r: r), "log": unary(np.log, lambda x, r: 1 / x),
    "log1p": unary(np.log1p, lambda x, r: 1 / (1 + x)), "expm1": unary(np.expm1, lambda x, r: r + 1),
    "sqrt": unary(np.sqrt, lambda x, r: 0.5 / r), "rsqrt": unary(lambda x: x**-0.5, lambda x, r: -0.5 * r / x),
    "square": unary(np.square, lambda x, r: 2 * x), "abs": unary(np.abs, lambda x, r: np.sign(x)),
    "neg": unary(np.negative, lambda x, r: -np.ones_like(x)), "tanh": unary(np.tanh, lambda x, r: 1 - r * r),
    "reciprocal": unary(np.reciprocal, lambda x, r: -r * r),
    "sigmoid": unary(_sigmoid, lambda x, r: r * (1 - r)),
    "relu": unary(lambda x: np.maximum(x, 0.0), lambda x, r: np.asarray(x > 0, float)),
    "softplus": unary(_softplus, lambda x, r: _sigmoid(x)),
    "logsigmoid": unary(lambda x: -_softplus(-x), lambda x, r: _sigmoid(-x)),
    "gt": compared(np.greater), "ge": compared(np.greater_equal), "lt": compared(np.less),
    "le": compared(np.less_equal), "eq": compared(np.equal), "ne": compared(np.not_equal),
    "and_": compared(np.logical_and), "or_": compared(np.logical_or), "invert": compared(np.logical_not),
    "logical_and": compared(np.logical_and), "logical_or": compared(np.logical_or),
    "logical_not": compared(np.logical_not), "bitwise_not": compared(np.logical_not),
    "sign": compared(np.sign), "isfinite": compared(np.isfinite),
    "any": lambda x: Variable(lifted(x).value.any()), "all": lambda x: Variable(lifted(x).value.all()),
    "sum": _sum, "mean": _mean, "cumsum": _cumsum, "logsumexp": _logsumexp,
    "clamp": _clamp, "clip": _clamp, "clamp_min": lambda x, min: _clamp(x, min=min),  # noqa: A006
    "clamp_max": lambda x, max: _clamp(x, max=max),  # noqa: A006
    "where": _where, "masked_fill": _masked_fill, "getitem": _getitem, "stack": _stack, "cat": _cat,
    "reshape": _shaped(_reshape), "view": _shaped(_reshape), "flatten": _shaped(np.ravel),
    "unsqueeze": _shaped(np.expand_dims), "squeeze": _shaped(_squeeze), "contiguous": lifted, "clone": lifted,
    "detach": _detach, "float": _same, "double": _same, "to": _to, "bool": _bool, "long": _long, "int": _long,
    "zeros_like": _filled(0.0), "ones_like": _filled(1.0),
    "size": _size, "numel": lambda x: int(lifted(x).value.size), "dim": lambda x: lifted(x).value.ndim,
}  # fmt: skip

_PREFIXES: Final = ("torch.nn.functional.", "torch._C._nn.", "torch.", "operator.", "math.")
_ALIASES: Final = {"log_sigmoid": "logsigmoid", "absolute": "abs", "negative": "neg", "rtruediv": "div"}


def function_named(target: str) -> Operation | None:
    """The operation of a qualified name, as ``torch.exp`` or ``operator.mul``; None if it is not listed."""
    if target in ("getattr", "builtins.getattr"):
        return _getattr
    prefix = next((one for one in _PREFIXES if target.startswith(one)), None)
    return None if prefix is None else method_named(target.removeprefix(prefix))


def method_named(name: str) -> Operation | None:
    """The operation of a tensor's method; None if it is not listed."""
    return BY_NAME.get(_ALIASES.get(name, name))
