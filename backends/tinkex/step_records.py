"""Conversion between the training contract and the records of the API: examples, optimizers, losses."""

import math
from collections.abc import Sequence

from backends.tinkex.errors import invalid
from backends.tinkex.types.adam_params import AdamParams
from backends.tinkex.types.datum import Datum as WireDatum
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.types.provenance import PromptProvenanceSpan, ProvenanceSpan, SampledProvenanceSpan
from crucible.losses import trained_tokens
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
    for name, values in datum.loss_inputs.items():
        if len(values) != len(datum.tokens):
            raise invalid(f"{field}.{name}", f"{len(values)} values", f"one for each of {len(datum.tokens)} tokens")
    wire = WireDatum(model_input=ModelInput.from_ints(datum.tokens), loss_fn_inputs=dict(datum.loss_inputs))
    if not datum.token_spans and not datum.target_spans:
        return wire
    try:
        return wire.with_provenance([*map(_wire_span, datum.token_spans)], [*map(_wire_span, datum.target_spans)])
    except ValueError as error:
        spans = f"{len(datum.token_spans)} and {len(datum.target_spans)} spans"
        raise invalid(f"{field}.token_spans, target_spans", spans, str(error)) from error


def _wire_span(span: SequenceSpan) -> ProvenanceSpan:
    kind = PromptProvenanceSpan if span.of_prompt else SampledProvenanceSpan
    return kind(sequence_id=span.sequence_id, offset=span.offset, length=span.length)


def logprobs_of(
    output: ForwardBackwardOutput, data: Sequence[Datum] | Sequence[WireDatum]
) -> list[list[float]] | None:
    """Return the log-probabilities of the targets of each example; None if the service did not return them all."""
    logprobs = [record.get("logprobs") for record in output.loss_fn_outputs]
    arrays = [tensor.tolist() for tensor in logprobs if tensor is not None]
    lengths = [len(one.tokens) if isinstance(one, Datum) else one.model_input.length for one in data]
    return arrays if [len(array) for array in arrays] == lengths else None


def reported_loss(request: StepRequest, output: ForwardBackwardOutput) -> float:
    """Return the loss of a step, as ``StepResult`` defines it.

    That of ``cross_entropy`` is computed from the log-probabilities if the service returns them; every other is
    read from the metrics. ``fsum`` rounds once, so the loss does not depend on how a batch was split.
    """
    weights = [datum.loss_inputs.get("weights") for datum in request.batch]
    logprobs = [record.get("logprobs") for record in output.loss_fn_outputs]
    if request.loss_fn == "cross_entropy" and len(logprobs) == len(weights) and None not in logprobs:
        terms, total = [], []
        for tensor, weight in zip(logprobs, weights, strict=True):
            if tensor is None or weight is None:
                break
            terms += [float(w) * float(p) for w, p in zip(weight, tensor.tolist(), strict=True) if w]
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
