"""What is wrong with a batch, found before it is sent. Each error names the example and the field."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Final

from crucible.errors import InvalidRequest
from crucible.training import Datum, StepRequest

LOSSES: Final = ("cross_entropy",)
"""The loss functions that training in this process knows."""


def check_batch(request: StepRequest, *, vocab_size: int, backend: str) -> None:
    """Refuse an unknown loss, an empty batch, lengths that disagree, NaN, and tokens outside the vocabulary.

    Raises:
        InvalidRequest: naming the field as ``batch[3].weights``.
    """
    if request.loss_fn not in LOSSES:
        raise InvalidRequest.of(
            "loss_fn", request.loss_fn, f"the {backend} backend knows {', '.join(LOSSES)}", backend=backend
        )
    if not request.batch:
        raise InvalidRequest.of("batch", [], "at least one example is needed", backend=backend)
    for index, datum in enumerate(request.batch):
        _check_datum(datum, f"batch[{index}]", vocab_size, backend)
    if math.fsum(float(weight) for datum in request.batch for weight in datum.loss_inputs["weights"]) == 0.0:
        raise InvalidRequest.of("batch", "the weights add up to 0", "some token must be trained", backend=backend)


def _check_datum(datum: Datum, place: str, vocab_size: int, backend: str) -> None:
    inputs: Mapping[str, Sequence[Any]] = datum.loss_inputs
    for name in ("target_tokens", "weights"):
        count = len(inputs.get(name, ()))
        if count != len(datum.tokens) or count == 0:
            allowed = f"one for each of {len(datum.tokens)} tokens"
            raise InvalidRequest.of(f"{place}.{name}", f"{count} values", allowed, backend=backend)
    if not all(math.isfinite(weight) for weight in inputs["weights"]):
        raise InvalidRequest.of(f"{place}.weights", "NaN or infinity", "finite numbers", backend=backend)
    for name, values in (("tokens", datum.tokens), ("target_tokens", inputs["target_tokens"])):
        wrong = next((value for value in values if not 0 <= value < vocab_size), None)
        if wrong is not None:
            raise InvalidRequest.of(
                f"{place}.{name}", wrong, f"token ids from 0 to {vocab_size - 1}", backend=backend
            )
