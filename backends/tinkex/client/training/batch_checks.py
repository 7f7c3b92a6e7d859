"""Validation of a batch before it is sent. Each error names the field."""

import math
from collections.abc import Sequence
from typing import Any, Final

from backends.tinkex.errors import invalid
from backends.tinkex.types.arrays import is_numpy
from backends.tinkex.types.datum import Datum
from backends.tinkex.types.model_input import EncodedTextChunk
from backends.tinkex.types.tensor_data import TensorData

_FINITE: Final = frozenset({"weights", "advantages"})
_MAX_TOKEN: Final = 2**31 - 1


def check_batch(
    data: Sequence[Datum], *, vocab_size: int | None = None, custom_loss: bool = False, field: str = "data"
) -> None:
    """Reject an empty batch, tensors of different lengths, NaN, and tokens outside the vocabulary.

    With ``custom_loss`` only ``target_tokens`` are as long as the input: the other inputs are the loss's own.

    Raises:
        InvalidRequest: naming the field as ``data[3].loss_fn_inputs.weights``.
    """
    if not isinstance(data, Sequence):
        raise invalid(field, type(data).__name__, "give a list of Datum")
    if len(data) == 0:
        raise invalid(field, [], "a batch has at least one datum")
    for index, datum in enumerate(data):
        where = f"{field}[{index}]"
        if not isinstance(datum, Datum):
            raise invalid(where, type(datum).__name__, "give a Datum")
        _check_input(datum, where, vocab_size)
        _check_lengths(datum, where, custom_loss=custom_loss)
        for name, tensor in datum.loss_fn_inputs.items():
            _check_numbers(name, tensor, f"{where}.loss_fn_inputs.{name}", vocab_size)


def _check_input(datum: Datum, where: str, vocab_size: int | None) -> None:
    if not datum.model_input.chunks:
        raise invalid(f"{where}.model_input", [], "an input has at least one chunk")
    for index, chunk in enumerate(datum.model_input.chunks):
        if isinstance(chunk, EncodedTextChunk):
            check_tokens(chunk.tokens, f"{where}.model_input.chunks[{index}].tokens", vocab_size)


def check_tokens(tokens: Any, field: str, vocab_size: int | None = None) -> None:
    """Reject token ids below 0 or outside the vocabulary. Raises InvalidRequest."""
    if len(tokens) == 0:
        return
    try:
        low, high = (tokens.min(), tokens.max()) if is_numpy(tokens) else (min(tokens), max(tokens))
        whole = int(low) == low and int(high) == high
    except (TypeError, ValueError):
        raise invalid(field, tokens, "token ids are whole numbers") from None
    max_token = (vocab_size or _MAX_TOKEN + 1) - 1
    if not whole:
        raise invalid(field, float(low), "token ids are whole numbers")
    if low < 0 or high > max_token:
        raise invalid(field, int(low if low < 0 else high), f"token ids are from 0 to {max_token}")


def _check_lengths(datum: Datum, where: str, *, custom_loss: bool) -> None:
    expected = datum.model_input.length
    source = "model_input"
    for name, tensor in datum.loss_fn_inputs.items():
        if custom_loss and name != "target_tokens":
            continue
        if expected is None:
            expected, source = tensor.length, f"loss_fn_inputs.{name}"
        elif tensor.length != expected:
            raise invalid(
                f"{where}.loss_fn_inputs.{name}",
                f"length {tensor.length}",
                f"{source} has length {expected}, and all must agree",
            )


def _check_numbers(name: str, tensor: TensorData, field: str, vocab_size: int | None) -> None:
    if tensor.dtype == "int64":
        if name == "target_tokens" and tensor.size and vocab_size is not None:
            flat = tensor.data.ravel() if is_numpy(tensor.data) else tensor.data
            check_tokens(flat, field, vocab_size)
        return
    bad = _first_bad(tensor.data, nan_only=name not in _FINITE)
    if bad is not None:
        raise invalid(field, bad, "NaN is not allowed" if math.isnan(bad) else "infinity is not allowed")


def _first_bad(values: Any, *, nan_only: bool) -> float | None:
    if is_numpy(values):
        import numpy as np

        bad = np.isnan(values) if nan_only else ~np.isfinite(values)
        return float(values[bad][0]) if bad.any() else None
    if _sum_is_finite(values):
        return None
    return next((float(value) for value in values if _is_bad(value, nan_only=nan_only)), None)


def _is_bad(value: float, *, nan_only: bool) -> bool:
    return math.isnan(value) or (not nan_only and math.isinf(value))


def _sum_is_finite(values: Any) -> bool:
    """Check a whole list in one fast pass: a sum with a non-finite term is not finite."""
    try:
        return math.isfinite(sum(values))
    except (OverflowError, ValueError):
        return False
    except TypeError:
        return True  # not numbers: the encoder rejects them
