"""Decoding of JSON batches, and validation of batches in either encoding."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
from pydantic import TypeAdapter, ValidationError

from backends.tinkex.types.provenance import ProvenanceSpan, SampledProvenanceSpan
from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.run import CUSTOM, Batch, BatchExample, Provenance
from backends.tinkex_dev.wire.requests import ForwardBackwardInput
from backends.tinkex_dev.wire.tensors import FieldPath, refuse_unknown, tensor_of_json, tokens_of_chunks
from backends.tiny_lm.losses import LOSSES
from backends.tiny_lm.network import VOCAB

_SPANS: Final = ("model_input_spans", "loss_fn_input_spans")
_DATUM_FIELDS: Final = {"model_input", "loss_fn_inputs", *_SPANS}
_RUNS: TypeAdapter[tuple[ProvenanceSpan, ...]] = TypeAdapter(tuple[ProvenanceSpan, ...])


def batch_of_json(body: ForwardBackwardInput, path: FieldPath, *, forward_only: bool) -> Batch:
    """The validated batch of a JSON body.

    Raises:
        InvalidField: a field is invalid; the error has its path.
    """
    examples = [_example(datum, (*path, "data", index)) for index, datum in enumerate(body.data)]
    return checked_batch(Batch(examples, body.loss_fn, body.loss_fn_config or {}, forward_only), path)


def _example(datum: Mapping[str, Any], path: FieldPath) -> BatchExample:
    refuse_unknown(datum, _DATUM_FIELDS, path)
    model_input = datum.get("model_input")
    chunks = model_input.get("chunks") if isinstance(model_input, Mapping) else None
    if isinstance(model_input, Mapping):
        refuse_unknown(model_input, {"chunks"}, (*path, "model_input"))
    tokens = tokens_of_chunks(chunks, (*path, "model_input", "chunks"))
    inputs = datum.get("loss_fn_inputs")
    if not isinstance(inputs, Mapping):
        raise InvalidField.at((*path, "loss_fn_inputs"), "expected an object with a tensor for each name")
    tensors = {name: tensor_of_json(value, (*path, "loss_fn_inputs", name)) for name, value in inputs.items()}
    runs = [_runs(datum[name], (*path, name)) if datum.get(name) is not None else None for name in _SPANS]
    return BatchExample(tokens, tensors, provenance_of(runs[0], runs[1], path))


def _runs(value: object, path: FieldPath) -> tuple[ProvenanceSpan, ...]:
    try:
        return _RUNS.validate_python(value)
    except ValidationError as error:
        [first, *_] = error.errors()
        raise InvalidField.at((*path, *first["loc"]), first["msg"]) from None


def provenance_of(
    model_input: tuple[ProvenanceSpan, ...] | None, rows: tuple[ProvenanceSpan, ...] | None, path: FieldPath
) -> Provenance | None:
    """Both lists of spans, or None without any. Raises InvalidField for one without the other."""
    for present, missing, name in ((model_input, rows, _SPANS[1]), (rows, model_input, _SPANS[0])):
        if present is not None and missing is None:
            raise InvalidField.at((*path, name), "provenance comes as a pair: both lists of spans, or neither")
    return None if model_input is None or rows is None else Provenance(model_input, rows)


def checked_batch(batch: Batch, path: FieldPath) -> Batch:
    """Return the batch, with the rows that were sampled marked among its inputs where the loss needs them.

    Raises:
        InvalidField: an unknown loss, or a missing, unknown or invalid input or setting.
    """
    for index, example in enumerate(batch.examples):
        _check_targets(example, (*path, "data", index))
        _check_cover(example, (*path, "data", index))
    if batch.loss_fn == CUSTOM:
        _check_custom(batch, (*path, "loss_fn_config"))
        return batch
    loss = LOSSES.get(batch.loss_fn)
    if loss is None:
        raise InvalidField.at(
            (*path, "loss_fn"), f"{batch.loss_fn!r} is not supported; allowed are {', '.join((*LOSSES, CUSTOM))}"
        )
    for key, value in batch.config.items():
        if key not in loss.settings:
            allowed = ", ".join(sorted(loss.settings)) or "none"
            raise InvalidField.at(
                (*path, "loss_fn_config", key), f"not a setting of {batch.loss_fn}; allowed: {allowed}"
            )
        if isinstance(value, str) or not np.isfinite(value) or (key == "kl_coeff" and value < 0):
            raise InvalidField.at((*path, "loss_fn_config", key), f"{value!r} is not a finite number, or negative")
    names = (*loss.required, *loss.optional)
    for index, example in enumerate(batch.examples):
        inputs = (*path, "data", index, "loss_fn_inputs")
        for name in loss.required:
            if name not in example.loss_inputs:
                raise InvalidField.at((*inputs, name), f"required by {batch.loss_fn}")
        for name in example.loss_inputs:
            if name not in names:
                known = ", ".join(names)
                raise InvalidField.at((*inputs, name), f"not an input of {batch.loss_fn}; its inputs are {known}")
            if name in batch.config:
                raise InvalidField.at((*inputs, name), "given as a setting too; give one of the two")
        _check_inputs(example, inputs)
    mark = _MARKS.get(batch.loss_fn)
    if mark is None:
        return batch
    examples = [mark(example, (*path, "data", n)) for n, example in enumerate(batch.examples)]
    return replace(batch, examples=examples)


def _check_targets(example: BatchExample, path: FieldPath) -> None:
    inputs = (*path, "loss_fn_inputs", "target_tokens")
    targets = example.loss_inputs.get("target_tokens")
    if targets is None:
        raise InvalidField.at(inputs, "required by every loss")
    if targets.ndim not in (1, 2) or len(targets) != len(example.tokens) or targets.dtype.kind != "i":
        raise InvalidField.at(
            inputs,
            f"shape {list(targets.shape)} of {targets.dtype}; expected int64 with one row for each of the "
            f"{len(example.tokens)} tokens of model_input",
        )
    ids = np.asarray(targets, dtype=np.int64)
    if ids.size == 0 or ids.min() < 0 or ids.max() >= VOCAB:
        raise InvalidField.at(inputs, f"contains ids outside the vocabulary; ids are 0 to {VOCAB - 1}")


def _check_inputs(example: BatchExample, path: FieldPath) -> None:
    shape = example.loss_inputs["target_tokens"].shape
    for name, value in example.loss_inputs.items():
        if name == "target_tokens":
            continue
        if value.shape != shape:
            raise InvalidField.at((*path, name), f"shape {list(value.shape)}; target_tokens has {list(shape)}")
        if not np.all(np.isfinite(np.asarray(value, dtype=np.float64))):
            raise InvalidField.at((*path, name), "contains a value that is not finite")


def _check_cover(example: BatchExample, path: FieldPath) -> None:
    """Check that each list of spans covers what it is about: the tokens, or the rows of flat targets."""
    if example.provenance is None:
        return
    targets = example.loss_inputs["target_tokens"]
    covers: list[tuple[str, Sequence[ProvenanceSpan], int]] = [
        (_SPANS[0], example.provenance.model_input, len(example.tokens))
    ]
    if targets.ndim == 1:
        covers.append((_SPANS[1], example.provenance.rows, len(targets)))
    for name, spans, length in covers:
        covered = sum(span.length for span in spans)
        if covered != length:
            raise InvalidField.at((*path, name), f"the spans cover {covered} positions of {length}")


def _with_ratio_rows(example: BatchExample, path: FieldPath) -> BatchExample:
    """The example with the tokens of its sequence's ratio: its own mask, or else the rows that were sampled."""
    where = (*path, "loss_fn_inputs", "sequence_ratio_mask")
    mask = example.loss_inputs.get("sequence_ratio_mask")
    if mask is not None:
        if not np.any(mask):
            raise InvalidField.at(where, "zero everywhere: there is no token for the sequence's ratio")
        return example
    if example.provenance is None:
        raise InvalidField.at(where, f"required by gspo, or else {_SPANS[1]} that say which rows were sampled")
    return _with_rows(example, path)


def _with_sampled_rows(example: BatchExample, path: FieldPath) -> BatchExample:
    """The example with its sampled rows, which alone have advantages."""
    if example.provenance is None:
        raise InvalidField.at((*path, _SPANS[1]), "required by stable_reinforce")
    marked = _with_rows(example, path)
    if np.any(np.asarray(example.loss_inputs["advantages"])[marked.loss_inputs["sampled_rows"] == 0]):
        where = (*path, "loss_fn_inputs", "advantages")
        raise InvalidField.at(where, "not zero on a row that was not sampled")
    return marked


def _with_rows(example: BatchExample, path: FieldPath) -> BatchExample:
    """The example with the input ``sampled_rows``, 1.0 on each row of a sampled span."""
    assert example.provenance is not None
    if example.loss_inputs["target_tokens"].ndim != 1:
        where = (*path, "loss_fn_inputs", "target_tokens")
        raise InvalidField.at(where, "sampled rows are known by spans of one target a row")
    parts = [
        np.full(span.length, isinstance(span, SampledProvenanceSpan), dtype=np.float32)
        for span in example.provenance.rows
    ]
    rows = np.concatenate(parts)
    if not rows.any():
        raise InvalidField.at((*path, _SPANS[1]), "at least one span of sampled_tokens is needed")
    return replace(example, loss_inputs={**example.loss_inputs, "sampled_rows": rows})


_MARKS: Final[Mapping[str, Callable[[BatchExample, FieldPath], BatchExample]]] = {
    "gspo": _with_ratio_rows,
    "stable_reinforce": _with_sampled_rows,
}


def _check_custom(batch: Batch, path: FieldPath) -> None:
    if not isinstance(batch.config.get("loss_id"), str):
        raise InvalidField.at((*path, "loss_id"), "required by a custom loss: the id that create_custom_loss gave")
    for key in batch.config:
        if key != "loss_id":
            raise InvalidField.at((*path, key), "not a setting of a custom loss; allowed: loss_id")
