"""Digests of numbered requests, over everything that determines their effect.

Equal requests have equal digests in every process, in every run and for every array type, so a later process can
verify that it repeats the same request.
"""

import hashlib
import json
import sys
from array import array
from collections.abc import Sequence
from dataclasses import astuple
from typing import Any, Final

from crucible.training import Datum, IntentKind, StepRequest

_INTEGER_ARRAYS: Final = frozenset({"target_tokens"})


def step_digest(request: StepRequest) -> str:
    """Return the hex digest of a step: its number, loss, optimizer and batch."""
    digest = hashlib.sha256()
    head = [request.step, request.loss_fn, sorted(request.loss_config.items()), request.optimizer.model_dump()]
    digest.update(json.dumps(head, sort_keys=True).encode())
    _add_batch(digest, request.batch)
    return digest.hexdigest()


def forward_digest(batch: Sequence[Datum], step: int, name: str | None) -> str:
    """Return the hex digest of a forward pass."""
    digest = hashlib.sha256(json.dumps([IntentKind.FORWARD, step, name]).encode())
    _add_batch(digest, batch)
    return digest.hexdigest()


def batch_digest(batch: Sequence[Datum]) -> str:
    """Return the hex digest of a batch alone."""
    digest = hashlib.sha256()
    _add_batch(digest, batch)
    return digest.hexdigest()


def save_digest(kind: IntentKind, name: str, step: int, ttl_s: int | None) -> str:
    """Return the hex digest of a save."""
    return hashlib.sha256(json.dumps([kind, name, step, ttl_s]).encode()).hexdigest()


def _add_batch(digest: Any, batch: Sequence[Datum]) -> None:
    for datum in batch:
        _add(digest, "tokens", datum.tokens, integer=True)
        for name in sorted(datum.loss_inputs):
            _add(digest, name, datum.loss_inputs[name], integer=name in _INTEGER_ARRAYS)
        if datum.token_spans or datum.target_spans:
            spans = [[astuple(span) for span in part] for part in (datum.token_spans, datum.target_spans)]
            digest.update(json.dumps(spans).encode())
        for image in datum.images:
            content = hashlib.sha256(image.data).hexdigest()
            digest.update(json.dumps([image.place, image.length, image.format, content]).encode())


def _add(digest: Any, name: str, values: Sequence[int] | Sequence[float], *, integer: bool) -> None:
    digest.update(f"{name}:{len(values)};".encode())
    if hasattr(values, "astype"):
        digest.update(values.astype("<i8" if integer else "<f8").tobytes())
        return
    numbers = array("q" if integer else "d", values)
    if sys.byteorder == "big":
        numbers.byteswap()
    digest.update(numbers.tobytes())
