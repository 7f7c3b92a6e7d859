"""The SDK's training examples."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final, Self

import numpy as np

from backends.tinkex import types as ours
from backends.tinkex.compat.tensor_data import TensorData
from backends.tinkex.types.arrays import is_torch

_WHOLE_NUMBERS: Final = frozenset({"target_tokens"})
_MAY_BE_SPARSE: Final = frozenset({"target_tokens", "weights"})


@dataclass(frozen=True, kw_only=True)
class _TokenRun:
    sequence_id: str
    offset: int = 0
    length: int
    record: ClassVar[Any]

    def __post_init__(self) -> None:
        self.to_tinkex()

    def to_tinkex(self) -> Any:
        """Return the span as this client has it. Raises ValueError for negative numbers or an empty id."""
        return self.record(sequence_id=self.sequence_id, offset=self.offset, length=self.length)


@dataclass(frozen=True, kw_only=True)
class PromptProvenanceSpan(_TokenRun):
    """The positions ``offset`` to ``offset + length`` of the prompt from which ``sequence_id`` was sampled."""

    record = ours.PromptProvenanceSpan


@dataclass(frozen=True, kw_only=True)
class SampledProvenanceSpan(_TokenRun):
    """The positions ``offset`` to ``offset + length`` of the tokens of the sampled sequence ``sequence_id``."""

    record = ours.SampledProvenanceSpan


ProvenanceSpans = list[PromptProvenanceSpan | SampledProvenanceSpan]


@dataclass(frozen=True)
class Datum:
    """A training example: an input, and the arrays that the loss reads. Lists and arrays become ``TensorData``."""

    model_input: ours.ModelInput
    loss_fn_inputs: dict[str, TensorData] = field(default_factory=dict)
    model_input_spans: ProvenanceSpans | None = None
    loss_fn_input_spans: ProvenanceSpans | None = None

    def __post_init__(self) -> None:
        tensors = {key: _as_tensor(key, value) for key, value in self.loss_fn_inputs.items()}
        object.__setattr__(self, "loss_fn_inputs", tensors)
        if (self.model_input_spans is None) != (self.loss_fn_input_spans is None):
            raise ValueError("model_input_spans and loss_fn_input_spans belong together")

    def with_provenance(self, model_input: ProvenanceSpans, loss_fn_inputs: ProvenanceSpans) -> Self:
        """Return a copy with the provenance of its input tokens and of its loss rows.

        Raises:
            ValueError: the spans do not cover the tokens of the input, or the rows of ``target_tokens``.
        """
        datum = replace(self, model_input_spans=model_input, loss_fn_input_spans=loss_fn_inputs)
        datum.to_tinkex()
        return datum

    def to_tinkex(self) -> ours.Datum:
        """Return the example as this client has it, without a copy of its arrays."""
        return ours.Datum(
            model_input=self.model_input,
            loss_fn_inputs={key: tensor.to_tinkex() for key, tensor in self.loss_fn_inputs.items()},
            model_input_spans=_spans(self.model_input_spans),
            loss_fn_input_spans=_spans(self.loss_fn_input_spans),
        )


def _spans(spans: ProvenanceSpans | None) -> tuple[Any, ...] | None:
    return None if spans is None else tuple(span.to_tinkex() for span in spans)


def _as_tensor(key: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if is_torch(value):
        return TensorData.from_torch_sparse(value) if key in _MAY_BE_SPARSE else TensorData.from_torch(value)
    if isinstance(value, np.ndarray):
        return TensorData.from_numpy(value)
    if isinstance(value, ours.ModelInput):
        value = value.to_ints()
    if not isinstance(value, list | tuple):
        raise TypeError(f"loss_fn_inputs[{key!r}]: {type(value).__name__} is not a list, an array or a tensor")
    array = np.asarray(value, dtype="int64" if key in _WHOLE_NUMBERS else "float32")
    return TensorData.from_numpy(array)


def to_tinkex(data: Sequence[Datum]) -> list[ours.Datum]:
    """Return examples as this client has them. Raises TypeError for anything else."""
    if not all(isinstance(datum, Datum) for datum in data):
        raise TypeError("data: give a list of Datum")
    return [datum.to_tinkex() for datum in data]
