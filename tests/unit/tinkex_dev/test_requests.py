"""Request models: a field that the server does not know is refused, in every model and at every depth."""

import pytest
from pydantic import ValidationError

from backends.tinkex.types import Datum, ModelInput
from backends.tinkex.wire.protobuf.field_reader import ProtobufError
from backends.tinkex.wire.protobuf.field_writer import delimited, integer
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, read_pass_request, write_pass_request
from backends.tinkex_dev.errors import InvalidField
from backends.tinkex_dev.service.service import digest_of_body
from backends.tinkex_dev.wire import requests
from backends.tinkex_dev.wire.batches import batch_of_json
from backends.tinkex_dev.wire.requests import ForwardBackwardInput, RequestBody

MODELS = [kind for kind in vars(requests).values() if isinstance(kind, type) and issubclass(kind, RequestBody)]


@pytest.mark.parametrize("kind", MODELS, ids=lambda kind: kind.__name__)
def test_an_unknown_field_is_refused_by_its_name(kind: type[RequestBody]) -> None:
    """In every model, also in those within others."""
    with pytest.raises(ValidationError) as caught:
        kind.model_validate({"no_such_field": 1})

    assert ("extra_forbidden", ("no_such_field",)) in {
        (item["type"], item["loc"]) for item in caught.value.errors()
    }


@pytest.mark.parametrize(
    "place",
    [
        (),
        ("model_input",),
        ("model_input", "chunks", 0),
        ("loss_fn_inputs", "target_tokens"),
        ("model_input_spans", 0),
        ("loss_fn_input_spans", 0),
    ],
)
def test_an_unknown_field_of_a_datum_is_refused_by_its_path(place: tuple[str | int, ...]) -> None:
    """JSON datums are not pydantic models, and are as strict."""
    span = {"type": "sampled_tokens", "sequence_id": "s", "length": 1}
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
        "loss_fn_inputs": {"target_tokens": {"data": [2], "dtype": "int64"}},
        "model_input_spans": [span],
        "loss_fn_input_spans": [dict(span)],
    }
    at = datum
    for key in place:
        at = at[key]
    at["no_such_field"] = 1

    with pytest.raises(InvalidField) as caught:
        batch_of_json(ForwardBackwardInput(data=[datum], loss_fn="cross_entropy"), (), forward_only=False)

    assert caught.value.detail[0]["loc"][-1] == "no_such_field"


def test_an_input_that_a_loss_does_not_read_is_refused() -> None:
    """Weights with a policy loss would have no effect."""
    tensor = {"data": [1.0], "dtype": "float32"}
    inputs = dict.fromkeys(("logprobs", "advantages", "weights"), tensor)
    datum = {
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1]}]},
        "loss_fn_inputs": {"target_tokens": {"data": [2], "dtype": "int64"}, **inputs},
    }

    with pytest.raises(InvalidField, match="not an input of ppo"):
        batch_of_json(ForwardBackwardInput(data=[datum], loss_fn="ppo"), (), forward_only=False)


@pytest.mark.parametrize("number", [8, 100])
def test_an_unknown_protobuf_field_is_refused(number: int) -> None:
    """At the top, and within a datum."""
    datum = Datum(model_input=ModelInput.from_ints([1]), loss_fn_inputs={"target_tokens": [2]})
    whole = write_pass_request(PassRequest("m", 1, [datum], "ppo")).joined()

    with pytest.raises(ProtobufError, match=f"field {number}"):
        read_pass_request(whole + integer(number, 1))
    with pytest.raises(ProtobufError, match=f"field {number}"):
        read_pass_request(whole + delimited(3, integer(number, 1)))


@pytest.mark.parametrize("field", ["prompt_logprobs", "record_stability_info"])
def test_an_absent_flag_is_a_false_one(field: str) -> None:
    """Clients differ in which they send; the samples of a request without a seed are the same."""
    body = {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]}, "sampling_params": {"max_tokens": 1}}

    found = [requests.Sample.model_validate(body | extra) for extra in ({}, {field: None}, {field: False})]

    assert found[0] == found[1] == found[2]
    assert requests.Sample.model_validate(body | {field: True}) != found[0]


def test_the_order_of_keys_is_not_part_of_a_request() -> None:
    """At no depth: it is the client's own."""
    left = {"chunks": [{"type": "encoded_text", "tokens": [1]}], "n": 1}
    right = {"n": 1, "chunks": [{"tokens": [1], "type": "encoded_text"}]}

    assert digest_of_body("sample", left) == digest_of_body("sample", right)
    assert digest_of_body("sample", left) != digest_of_body("sample", {**left, "n": 2})
