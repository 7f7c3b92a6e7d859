"""Conversion between the training contract and the records of the API: examples, optimizers, losses."""

import math
from collections.abc import Sequence
from typing import Any

from backends.tinkex.errors import invalid, malformed
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.datum import Datum as WireDatum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.provenance import PromptProvenanceSpan, ProvenanceSpan, SampledProvenanceSpan
from backends.tinkex.types.tensor_data import TensorData
from crucible.losses import TARGETS, targets_per_token, trained_tokens
from crucible.training import Datum, OptimizerSpec, SequenceSpan, StepRequest


def adam_params(optimizer: OptimizerSpec) -> AdamParams:
    """Return the parameters of an optimizer step."""
    return AdamParams(
        learning_rate=optimizer.learning_rate,
        beta1=optimizer.beta1,
        beta2=optimizer.beta2,
        eps=optimizer.eps,
        weight_decay=optimizer.weight_decay,
        grad_clip_norm=optimizer.grad_clip_norm,
    )


def wire_data(batch: Sequence[Datum]) -> list[WireDatum]:
    """Return the examples of a batch as records. Raises InvalidRequest."""
    if not batch:
        raise invalid("batch", [], "at least one example is needed")
    return [_wire_datum(datum, f"batch[{index}]") for index, datum in enumerate(batch)]


def _wire_datum(datum: Datum, field: str) -> WireDatum:
    targets = targets_per_token(datum)
    for name, values in datum.loss_inputs.items():
        if len(values) != targets * len(datum.tokens):
            each = "one" if targets == 1 else targets
            raise invalid(
                f"{field}.{name}", f"{len(values)} values", f"{each} for each of {len(datum.tokens)} tokens"
            )
    inputs: dict[str, Any] = dict(datum.loss_inputs)
    if targets > 1:
        inputs = {name: _rows(name, values, targets) for name, values in inputs.items()}
    wire = WireDatum(model_input=_model_input(datum, field), loss_fn_inputs=inputs)
    if not datum.token_spans and not datum.target_spans:
        return wire
    try:
        return wire.with_provenance([*map(_wire_span, datum.token_spans)], [*map(_wire_span, datum.target_spans)])
    except ValueError as error:
        spans = f"{len(datum.token_spans)} and {len(datum.target_spans)} spans"
        raise invalid(f"{field}.token_spans, target_spans", spans, str(error)) from error


def _model_input(datum: Datum, field: str) -> ModelInput:
    """The tokens of a datum, with its images in their places."""
    if not datum.images:
        return ModelInput.from_ints(datum.tokens)
    chunks: list[EncodedTextChunk | ImageChunk] = []
    begin = 0
    for number, image in enumerate(datum.images):
        end = image.place + image.length
        if not begin <= image.place < end <= len(datum.tokens):
            allowed = f"images are in order, within the {len(datum.tokens)} tokens, and do not overlap"
            raise invalid(f"{field}.images[{number}]", f"{image.place} to {end}", allowed)
        if image.place > begin:
            chunks.append(EncodedTextChunk(tokens=datum.tokens[begin : image.place]))
        chunks.append(ImageChunk(data=image.data, format=image.format, expected_tokens=image.length))
        begin = end
    if begin < len(datum.tokens):
        chunks.append(EncodedTextChunk(tokens=datum.tokens[begin:]))
    return ModelInput(chunks=[*chunks])


def _rows(name: str, values: Sequence[int] | Sequence[float], targets: int) -> TensorData:
    """The values of a datum with several targets of a token, as a matrix."""
    import numpy as np

    matrix = np.asarray(values, dtype=np.int64 if name == TARGETS else np.float32).reshape(-1, targets)
    return TensorData.from_numpy(matrix)


def _wire_span(span: SequenceSpan) -> ProvenanceSpan:
    kind = PromptProvenanceSpan if span.of_prompt else SampledProvenanceSpan
    return kind(sequence_id=span.sequence_id, offset=span.offset, length=span.length)


def logprobs_of(
    output: ForwardBackwardOutput, data: Sequence[Datum] | Sequence[WireDatum]
) -> list[list[float]] | None:
    """Return the log-probabilities of the targets of each example; None if the service did not return them all."""
    logprobs = [record.get("logprobs") for record in output.loss_fn_outputs]
    arrays = [_flat(tensor) for tensor in logprobs if tensor is not None]
    return arrays if [len(array) for array in arrays] == [_targets(one) for one in data] else None


def _flat(tensor: TensorData) -> list[float]:
    """The values of a tensor, one token's after the other's."""
    values = tensor.tolist()
    return values if not values or not isinstance(values[0], list) else [value for row in values for value in row]


def _targets(datum: Datum | WireDatum) -> int:
    if isinstance(datum, Datum):
        return len(datum.tokens) * targets_per_token(datum)
    targets, length = datum.loss_fn_inputs.get(TARGETS), datum.model_input.length
    return targets.size if targets is not None else length if length is not None else -1


def reported_loss(request: StepRequest, output: ForwardBackwardOutput) -> float:
    """Return the loss of a step, as ``StepResult`` defines it.

    That of ``cross_entropy`` is computed from the log-probabilities if the service returns them; every other is
    read from the metrics. ``fsum`` rounds once, so the loss does not depend on how a batch was split.

    Raises:
        MalformedAnswer: there is not one log-probability for each weight.
    """
    weights = [datum.loss_inputs.get("weights") for datum in request.batch]
    logprobs = [record.get("logprobs") for record in output.loss_fn_outputs]
    if request.loss_fn == "cross_entropy" and len(logprobs) == len(weights) and None not in logprobs:
        terms, total = [], []
        for index, (tensor, weight) in enumerate(zip(logprobs, weights, strict=True)):
            if tensor is None or weight is None:
                break
            values = _flat(tensor)
            if len(values) != len(weight):
                reason = f"{len(values)} logprobs of datum {index}, which has {len(weight)} weights"
                raise malformed(reason, route="forward_backward")
            terms += [float(w) * float(p) for w, p in zip(weight, values, strict=True) if w]
            total += [float(w) for w in weight]
        else:
            # fsum raises for infinities of both signs; any infinity means a corrupted run anyway.
            if not all(map(math.isfinite, terms)):
                return math.nan
            return -math.fsum(terms) / (math.fsum(total) or 1.0)
    for name in ("loss:mean", "loss"):
        if name in output.metrics:
            return output.metrics[name]
    return output.metrics.get("loss:sum", math.nan) / (trained_tokens(request.batch) or 1.0)
