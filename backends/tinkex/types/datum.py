"""Training examples."""

from array import array
from collections.abc import Sequence
from typing import Annotated, Any, Final, Self

from pydantic import ConfigDict, ValidatorFunctionWrapHandler, WrapValidator, field_validator, model_validator

from backends.tinkex.types.arrays import is_numpy, is_torch
from backends.tinkex.types.model_input import ModelInput
from backends.tinkex.types.provenance import ProvenanceSpan, check_cover
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.types.wire_record import SentRecord

_WHOLE_NUMBERS: Final = frozenset({"target_tokens"})


def _checked_once(value: Any, check: ValidatorFunctionWrapHandler) -> Any:
    # pydantic runs the validators of a model again on an instance of it, which costs more than the rest of a datum
    return value if isinstance(value, TensorData) else check(value)


class Datum(SentRecord):
    """A training example: an input, and the arrays that the loss reads (``target_tokens``, ``weights``,
    ``logprobs``, ``advantages``, ...). Lists and arrays become ``TensorData`` without a copy.

    ``model_input_spans`` and ``loss_fn_input_spans`` name, as consecutive runs, the sampled sequences that the
    tokens of the input and the rows of ``target_tokens`` come from; both or neither are given.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    model_input: ModelInput
    loss_fn_inputs: dict[str, Annotated[TensorData, WrapValidator(_checked_once)]]
    model_input_spans: tuple[ProvenanceSpan, ...] | None = None
    loss_fn_input_spans: tuple[ProvenanceSpan, ...] | None = None

    @field_validator("loss_fn_inputs", mode="before")
    @classmethod
    def _as_tensors(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {key: _as_tensor(key, item) for key, item in value.items()}

    @model_validator(mode="after")
    def _check_spans(self) -> Self:
        self._check_cover()
        return self

    def _check_cover(self) -> None:
        if (self.model_input_spans is None) != (self.loss_fn_input_spans is None):
            raise ValueError("model_input_spans and loss_fn_input_spans belong together")
        if self.model_input_spans is not None and self.loss_fn_input_spans is not None:
            check_cover("model_input_spans", self.model_input_spans, self.model_input.length)
            targets = self.loss_fn_inputs.get("target_tokens")
            if targets is not None and (targets.shape is None or len(targets.shape) == 1):
                check_cover("loss_fn_input_spans", self.loss_fn_input_spans, targets.length)

    def with_provenance(
        self, model_input: Sequence[ProvenanceSpan], loss_fn_inputs: Sequence[ProvenanceSpan]
    ) -> Self:
        """Return a copy with the provenance of its input tokens and of its loss rows.

        Raises:
            ValueError: the spans do not cover the tokens of the input, or the rows of ``target_tokens``.
        """
        spans = {"model_input_spans": tuple(model_input), "loss_fn_input_spans": tuple(loss_fn_inputs)}
        datum = self.model_copy(update=spans)
        datum._check_cover()
        return datum

    def copied(self) -> Self:
        """Return a copy with memory of its own."""
        tensors = {key: tensor.copied() for key, tensor in self.loss_fn_inputs.items()}
        return self.model_copy(update={"model_input": self.model_input.copied(), "loss_fn_inputs": tensors})

    def body(self) -> dict[str, Any]:
        """Return the JSON form."""
        body: dict[str, Any] = {
            "model_input": self.model_input.body(),
            "loss_fn_inputs": {key: tensor.body() for key, tensor in self.loss_fn_inputs.items()},
        }
        if self.model_input_spans is not None and self.loss_fn_input_spans is not None:
            body["model_input_spans"] = [span.body() for span in self.model_input_spans]
            body["loss_fn_input_spans"] = [span.body() for span in self.loss_fn_input_spans]
        return body


def _as_tensor(key: str, value: Any) -> Any:
    if isinstance(value, TensorData | dict):
        return value
    if is_numpy(value):
        return TensorData.from_numpy(value)
    if is_torch(value):
        return TensorData.from_torch(value)
    if isinstance(value, ModelInput):
        value = value.to_ints()
    if not isinstance(value, list | tuple | range | array):
        raise ValueError(f"{key}: expected a list, a tuple, a numpy array or a torch tensor of numbers")  # noqa: TRY004
    if isinstance(value, list | tuple) and value and isinstance(value[0], list | tuple):
        import numpy as np

        return TensorData.from_numpy(np.asarray(value, dtype="int64" if key in _WHOLE_NUMBERS else "float32"))
    return TensorData.trusted(value, "int64" if key in _WHOLE_NUMBERS else "float32", (len(value),))
