"""Validation of runs and batches before they are sent. Errors name the example and the field."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crucible.errors import InvalidRequest
from crucible.training import Datum, LoraSpec, StepRequest

LOSSES: Final = ("cross_entropy",)
"""The loss functions of local backends."""


def check_lora(lora: LoraSpec, *, backend: str) -> None:
    """Refuse an adapter that trains nothing. Raises InvalidRequest."""
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise InvalidRequest.of("lora", "nothing to train", "set one of train_* to true", backend=backend)


def check_batch(request: StepRequest, *, vocab_size: int, backend: str) -> None:
    """Refuse an unknown loss, an empty batch, inconsistent lengths, NaN, and tokens outside the vocabulary.

    Raises:
        InvalidRequest: naming the field, such as ``batch[3].weights``.
    """
    if request.loss_fn not in LOSSES:
        raise InvalidRequest.of(
            "loss_fn", request.loss_fn, f"the {backend} backend supports {', '.join(LOSSES)}", backend=backend
        )
    check_examples(request.batch, vocab_size=vocab_size, backend=backend)
    if not any(weight for datum in request.batch for weight in datum.loss_inputs["weights"]):
        raise InvalidRequest.of("batch", "the weights are all 0", "some token must be trained", backend=backend)


def check_examples(batch: Sequence[Datum], *, vocab_size: int, backend: str) -> None:
    """Refuse an empty batch and invalid examples. Raises InvalidRequest."""
    if not batch:
        raise InvalidRequest.of("batch", [], "at least one example is required", backend=backend)
    for index, datum in enumerate(batch):
        _check_datum(datum, f"batch[{index}]", vocab_size, backend)


def _check_datum(datum: Datum, path: str, vocab_size: int, backend: str) -> None:
    inputs: Mapping[str, Sequence[Any]] = datum.loss_inputs
    for name in ("target_tokens", "weights"):
        count = len(inputs.get(name, ()))
        if count != len(datum.tokens) or count == 0:
            allowed = f"one for each of {len(datum.tokens)} tokens"
            raise InvalidRequest.of(f"{path}.{name}", f"{count} values", allowed, backend=backend)
    if not all(math.isfinite(weight) for weight in inputs["weights"]):
        raise InvalidRequest.of(f"{path}.weights", "NaN or infinity", "finite numbers", backend=backend)
    for name, values in (("tokens", datum.tokens), ("target_tokens", inputs["target_tokens"])):
        unknown = next((value for value in values if not 0 <= value < vocab_size), None)
        if unknown is not None:
            raise InvalidRequest.of(
                f"{path}.{name}", unknown, f"token ids from 0 to {vocab_size - 1}", backend=backend
            )
