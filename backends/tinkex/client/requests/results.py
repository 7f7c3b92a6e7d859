"""Decoders for each kind of result, and the checks that detect a corrupted run by its values."""

import math
from array import array
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel

from backends.tinkex.client.requests.connection import decode_record
from backends.tinkex.client.requests.result_poll import Decoding
from backends.tinkex.errors import BACKEND, malformed
from backends.tinkex.types.arrays import is_numpy
from backends.tinkex.types.forward_backward_output import ForwardBackwardOutput
from backends.tinkex.types.responses import OptimStepResponse
from backends.tinkex.types.sample_response import SampleResponse
from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output
from backends.tinkex.wire.protobuf.sample_codec import read_sample_response
from crucible.errors import RunCorrupted

R = TypeVar("R", bound=BaseModel)


def record_decoding(kind: type[R], route: str) -> Decoding[R]:
    """Return the decoding of a result that always comes as JSON."""
    return Decoding(from_json=_decoder(kind, route))


def pass_decoding(route: str) -> Decoding[ForwardBackwardOutput]:
    """Return the decoding of a forward or forward_backward result."""

    def decode(value: Any) -> ForwardBackwardOutput:
        output = decode_record(value, ForwardBackwardOutput, route)
        for index, record in enumerate(output.loss_fn_outputs):
            for name, tensor in record.items():
                if not _are_numbers(tensor.data):
                    raise malformed(f"loss_fn_outputs.{index}.{name}.data: expected numbers", route=route)
        return output

    return Decoding(from_json=decode, from_protobuf=read_pass_output)


def sample_decoding(route: str = "asample") -> Decoding[SampleResponse]:
    """Return the decoding of a sampling result."""
    return Decoding(from_json=_decoder(SampleResponse, route), from_protobuf=read_sample_response)


def _decoder(kind: type[R], route: str) -> Callable[[Any], R]:
    def decode(value: Any) -> R:
        return decode_record(value, kind, route)

    return decode


def check_pass(output: ForwardBackwardOutput, model_id: str, request_id: str | None) -> ForwardBackwardOutput:
    """Return the output. Raises RunCorrupted when a metric is not finite or a float array contains NaN."""
    _check_metrics(output.metrics, model_id, request_id)
    for index, record in enumerate(output.loss_fn_outputs):
        for name, tensor in record.items():
            if tensor.dtype == "float32" and _has_nan(tensor.data):
                raise _corrupted(f"{name} of datum {index} contains NaN", model_id, request_id)
    return output


def check_step(output: OptimStepResponse, model_id: str, request_id: str | None) -> OptimStepResponse:
    """Return the output. Raises RunCorrupted when a metric is not finite."""
    _check_metrics(output.metrics, model_id, request_id)
    return output


def _check_metrics(metrics: Mapping[str, float], model_id: str, request_id: str | None) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise _corrupted(f"the metric {name} is {value}", model_id, request_id)


def _are_numbers(values: Any) -> bool:
    try:
        array("d", values)
    except (TypeError, OverflowError):
        return False
    return True


def _corrupted(reason: str, model_id: str, request_id: str | None) -> RunCorrupted:
    return RunCorrupted(
        f"run {model_id} is corrupted: {reason}",
        backend=BACKEND,
        request_id=request_id,
        details={"run_id": model_id, "detected_by": "value"},
    )


def _has_nan(values: Any) -> bool:
    if is_numpy(values):
        import numpy as np

        return bool(np.isnan(values).any())
    return any(math.isnan(value) for value in values)
