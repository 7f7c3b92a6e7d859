"""A digest of all that determines an optimizer step's effect, whatever holds its arrays.

Equal requests have equal digests in every process, in every run and for every kind of array, so a later process can
prove that what it is about to repeat is what was meant.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from typing import Any, Final

from crucible.training import IntentKind, StepRequest

_WHOLE: Final = frozenset({"target_tokens"})


def step_digest(request: StepRequest) -> str:
    """The hex digest of a step: its number, loss, optimizer and batch."""
    made = hashlib.sha256()
    head = [request.step, request.loss_fn, sorted(request.loss_config.items()), request.optimizer.model_dump()]
    made.update(json.dumps(head, sort_keys=True).encode())
    for datum in request.batch:
        _add(made, "tokens", datum.tokens, whole=True)
        for name in sorted(datum.loss_inputs):
            _add(made, name, datum.loss_inputs[name], whole=name in _WHOLE)
    return made.hexdigest()


def save_digest(kind: IntentKind, name: str, step: int, ttl_s: int | None) -> str:
    """The hex digest of a save."""
    return hashlib.sha256(json.dumps([kind, name, step, ttl_s]).encode()).hexdigest()


def _add(made: Any, name: str, values: Sequence[int] | Sequence[float], *, whole: bool) -> None:
    made.update(f"{name}:{len(values)};".encode())
    if hasattr(values, "astype"):
        made.update(values.astype("<i8" if whole else "<f8").tobytes())
        return
    numbers = array("q" if whole else "d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    made.update(numbers.tobytes())
