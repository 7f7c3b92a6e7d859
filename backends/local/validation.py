"""Validation of runs and batches before they are sent. Errors name the example and the field."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crucible.errors import InvalidRequest, Unsupported
from crucible.losses import POLICY_LOSSES, targets_per_token
from crucible.training import Datum, LoraSpec, StepRequest

LOSSES: Final = ("cross_entropy",)
"""The loss functions of local backends for texts and conversations."""
LOCAL_POLICY_LOSSES: Final = tuple(name for name, loss in POLICY_LOSSES.items() if not loss.binds_sequences)
"""The loss functions of local backends for sampled tokens: those without a record of sequences."""
_CROSS_ENTROPY: Final = ("target_tokens", "weights")


def check_lora(lora: LoraSpec, *, backend: str) -> None:
    """Refuse an adapter that trains nothing. Raises InvalidRequest."""
    if not (lora.train_attn or lora.train_mlp or lora.train_unembed):
        raise InvalidRequest.of("lora", "nothing to train", "set one of train_* to true", backend=backend)


def check_batch(request: StepRequest, *, vocab_size: int, backend: str) -> None:
    """Refuse an unknown loss, an empty batch, inconsistent lengths, NaN, and tokens outside the vocabulary.

    Raises:
        InvalidRequest: naming the field, such as ``batch[3].weights``.
    """
    if request.loss_fn in LOCAL_POLICY_LOSSES:
        _check_policy(request, vocab_size, backend)
        return
    if request.loss_fn not in LOSSES:
        offered = ", ".join((*LOSSES, *LOCAL_POLICY_LOSSES))
        raise InvalidRequest.of(
            "loss_fn", request.loss_fn, f"the {backend} backend supports {offered}", backend=backend
        )
    check_examples(request.batch, vocab_size=vocab_size, backend=backend)
    if not any(weight for datum in request.batch for weight in datum.loss_inputs["weights"]):
        raise InvalidRequest.of("batch", "the weights are all 0", "some token must be trained", backend=backend)


def check_examples(batch: Sequence[Datum], *, vocab_size: int, backend: str) -> None:
    """Refuse an empty batch and invalid examples. Raises InvalidRequest, and Unsupported for images."""
    if not batch:
        raise InvalidRequest.of("batch", [], "at least one example is required", backend=backend)
    for index, datum in enumerate(batch):
        _check_datum(datum, f"batch[{index}]", vocab_size, backend)


def _check_policy(request: StepRequest, vocab_size: int, backend: str) -> None:
    loss = POLICY_LOSSES[request.loss_fn]
    for name, value in request.loss_config.items():
        if name not in loss.settings or isinstance(value, str):
            allowed = f"numbers of {', '.join(sorted(loss.settings)) or 'no name'}"
            raise InvalidRequest.of(f"loss_config.{name}", value, allowed, backend=backend)
    if not request.batch:
        raise InvalidRequest.of("batch", [], "at least one example is required", backend=backend)
    for index, datum in enumerate(request.batch):
        names = (*loss.inputs, *(name for name in loss.optional if name in datum.loss_inputs))
        _check_datum(datum, f"batch[{index}]", vocab_size, backend, names)


def _check_datum(
    datum: Datum, path: str, vocab_size: int, backend: str, names: Sequence[str] = _CROSS_ENTROPY
) -> None:
    if datum.images:
        raise Unsupported(f"{path}.images: the {backend} backend trains on tokens only", backend=backend)
    inputs: Mapping[str, Sequence[Any]] = datum.loss_inputs
    if unknown_inputs := set(inputs) - set(names):
        raise InvalidRequest.of(
            f"{path}.loss_inputs", sorted(unknown_inputs), f"the loss reads {', '.join(names)}", backend=backend
        )
    each = targets_per_token(datum) if names is _CROSS_ENTROPY else 1
    for name in names:
        count = len(inputs.get(name, ()))
        if count != each * len(datum.tokens) or count == 0:
            allowed = f"{'one' if each == 1 else each} for each of {len(datum.tokens)} tokens"
            raise InvalidRequest.of(f"{path}.{name}", f"{count} values", allowed, backend=backend)
        if not all(math.isfinite(value) for value in inputs[name]):
            raise InvalidRequest.of(f"{path}.{name}", "NaN or infinity", "finite numbers", backend=backend)
    for name, values in (("tokens", datum.tokens), ("target_tokens", inputs["target_tokens"])):
        unknown = next((value for value in values if not 0 <= value < vocab_size), None)
        if unknown is not None:
            raise InvalidRequest.of(
                f"{path}.{name}", unknown, f"token ids from 0 to {vocab_size - 1}", backend=backend
            )
