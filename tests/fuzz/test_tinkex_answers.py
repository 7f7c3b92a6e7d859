"""No answer of a training service raises anything but an error of the family: JSON, errors and protobuf."""

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json

from backends.tinkex import types
from backends.tinkex.client.requests.connection import decode_record
from backends.tinkex.client.requests.results import check_pass, pass_decoding, sample_decoding
from backends.tinkex.errors import ErrorResponse, Resource, error_from_failed_request, error_from_response
from backends.tinkex.types import future_answer, responses
from backends.tinkex.types.sample_response import SampledSequence, SampleResponse
from backends.tinkex.types.wire_record import ReadRecord
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output, write_pass_output
from backends.tinkex.wire.protobuf.sample_codec import read_sample_response, write_sample_response
from crucible import CrucibleError
from tests.fuzz.mutations import JSON, bounded_memory, fuzzed, mutated, mutated_bytes

KINDS = sorted(
    {
        kind
        for module in (types, future_answer, responses)
        for kind in (getattr(module, name) for name in dir(module))
        if isinstance(kind, type) and issubclass(kind, ReadRecord) and kind is not ReadRecord
    },
    key=lambda kind: kind.__name__,
)
FLOATS = np.array([0.5, -1.0, 2.5], dtype=np.float32)
OUTPUT = write_pass_output(
    [{"logprobs": FLOATS, "ids": np.arange(3)}, {"logprobs": FLOATS[:2], "ids": np.arange(2)}], {"loss:mean": 0.5}
).joined()
SAMPLE = write_sample_response(
    SampleResponse(
        sequences=[SampledSequence(stop_reason="length", tokens=[1, 2], logprobs=[-0.5, -1.5])],
        prompt_logprobs=[None, -0.5],
        topk_prompt_logprobs=[None, [(1, -0.5), (2, -1.0)]],
    )
).joined()
TENSOR = {"data": [0.5], "dtype": "float32", "shape": [1]}
SEQUENCE = {"stop_reason": "stop", "tokens": [1, 2], "logprobs": [-0.5, -1.0]}
ANSWERS: list[Any] = [
    {"loss_fn_output_type": "x", "loss_fn_outputs": [{"logprobs": TENSOR}], "metrics": {"loss:mean": 0.5}},
    {"sequences": [SEQUENCE], "prompt_logprobs": [None, -1]},
    {"type": "try_again", "request_id": "r", "queue_state": "active", "queue_state_reason": "x"},
    {"error": "it failed", "category": "user"},
    {"training_runs": [{"training_run_id": "r", "base_model": "m", "corrupted": False}], "cursor": {"offset": 0}},
]
ERRORS: list[Any] = [
    {"detail": [{"loc": ["body", "x", 0], "msg": "bad", "type": "t"}]},
    {"detail": [{"loc": 5, "msg": 5}]},
    {"detail": "Model not found"},
    {"error": {"message": "x", "field": "y"}},
    {"message": ["x"]},
]
DEEP = [b"[" * depth + b"]" * depth for depth in (1, 100, 1_000, 30_000)] + [
    b'{"detail":' + b"[" * 1000 + b"]" * 1000 + b"}"
]


def _bytes(value: Any) -> bytes:
    return json.dumps(value).encode()


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Of all tests here."""
    with bounded_memory():
        yield


@fuzzed
@given(JSON | st.sampled_from(ANSWERS).flatmap(mutated), st.sampled_from(KINDS))
def test_a_json_answer(value: Any, kind: type[ReadRecord]) -> None:
    """It is a record, or an error of the family."""
    for decode in (lambda: decode_record(value, kind, "x"), lambda: sample_decoding().from_json(value)):
        with suppress(CrucibleError):
            decode()
    with suppress(CrucibleError):
        check_pass(pass_decoding("x").from_json(value), "run", None)


@fuzzed
@given(
    st.binary(max_size=100) | st.sampled_from(DEEP) | (JSON | st.sampled_from(ERRORS).flatmap(mutated)).map(_bytes),
    st.sampled_from([400, 401, 402, 404, 405, 408, 409, 410, 418, 422, 429, 500, 501, 503, 599]),
    st.sampled_from(list(Resource)),
    st.dictionaries(st.sampled_from(["retry-after", "retry-after-ms", "date"]), st.text(max_size=30), max_size=2),
)
def test_an_error_response(body: bytes, status: int, resource: Resource, headers: dict[str, str]) -> None:
    """It is an error that can be stored."""
    error = error_from_response(ErrorResponse(status, "x", body, resource, headers))

    assert error.failure().model_dump_json()
    assert error.details["status"] == status
    text = body.decode(errors="replace")
    assert error_from_failed_request(text, "user", route="x", request_id=None, resource=resource).failure()


@fuzzed
@given(st.binary(max_size=200) | st.just(OUTPUT).flatmap(mutated_bytes))
def test_a_pass_in_protobuf(body: bytes) -> None:
    """It is an output, or ProtobufError, which the poll translates."""
    with suppress(ProtobufError, CrucibleError):
        check_pass(read_pass_output(body), "run", None)


@fuzzed
@given(st.binary(max_size=200) | st.just(SAMPLE).flatmap(mutated_bytes))
def test_a_sample_in_protobuf(body: bytes) -> None:
    """As a pass."""
    with suppress(ProtobufError, CrucibleError):
        read_sample_response(body)


@fuzzed
@given(
    st.binary(max_size=300)
    | st.sampled_from([json.dumps(answer).encode() for answer in ANSWERS]).flatmap(mutated_bytes)
)
def test_a_body(body: bytes) -> None:
    """JSON that is damaged."""
    try:
        value = from_json(body)
    except ValueError:
        return
    with suppress(CrucibleError):
        check_pass(pass_decoding("x").from_json(value), "run", None)
