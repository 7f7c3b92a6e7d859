"""JSON and protobuf are equivalent."""

import base64

import numpy as np
import pytest
import zstandard

from backends.tinkex.types.datum import Datum
from backends.tinkex.types.image_chunk import ImageChunk
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.wire.protobuf.pass_output_codec import read_pass_output
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, write_pass_request
from backends.tinkex.wire.protobuf.sample_codec import read_sample_response
from backends.tinkex_dev.server import DevServer
from tests.pictures import png

PROTOBUF = "application/x-protobuf"
TOKENS = [258, *b"Hi", 256, 259, *b"Hello"]
TARGETS = [*TOKENS[1:], 256]
JSON_DATUM = {
    "model_input": {"chunks": [{"type": "encoded_text", "tokens": TOKENS}]},
    "loss_fn_inputs": {
        "target_tokens": {"data": TARGETS, "dtype": "int64", "shape": [len(TARGETS)]},
        "weights": {"data": [1.0] * len(TARGETS), "dtype": "float32", "shape": [len(TARGETS)]},
    },
}


def packed(model: str, seq_id: int, *, targets=TARGETS, loss="cross_entropy", forward_only=False) -> bytes:
    datum = Datum(
        model_input=ModelInput.from_ints(TOKENS),
        loss_fn_inputs={
            "target_tokens": np.array(targets, dtype=np.int64),
            "weights": np.ones(len(targets), dtype=np.float32),
        },
    )
    request = PassRequest(model, seq_id, [datum], loss, None, forward_only=forward_only)
    return write_pass_request(request).joined()


def send(api, body: bytes, **headers: str):
    return api.http.post("forward_backward", content=body, headers={"content-type": PROTOBUF, **headers})


def result(api, receipt, accept: str):
    body = {"request_id": receipt["request_id"]}
    return api.http.post("retrieve_future", json=body, headers={"accept": accept})


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "zstd"])
def test_a_packed_request_is_the_same_request(api, compressed: bool):
    """Protobuf and JSON under one seq_id are one request, with one answer in either form."""
    model = api.model(api.session())
    body = packed(model, 1)
    headers = {}
    if compressed:
        body, headers = zstandard.compress(body), {"content-encoding": "zstd"}

    receipt = send(api, body, **headers).json()
    same = api.forward_backward(model, 1, data=[JSON_DATUM])

    assert same["request_id"] == receipt["request_id"]
    plain, binary = result(api, receipt, "application/json"), result(api, receipt, PROTOBUF)
    assert binary.headers["content-type"] == PROTOBUF
    output = read_pass_output(binary.content)
    assert output.metrics == plain.json()["metrics"]
    for name, tensor in plain.json()["loss_fn_outputs"][0].items():
        assert output.loss_fn_outputs[0][name].tolist() == tensor["data"]


IMAGE = png(40, 20)
BAD_IMAGES = {
    "no image": ({"data": base64.b64encode(b"abc").decode()}, "data"),
    "another format": ({"format": "jpeg"}, "data"),
    "an unknown format": ({"format": "gif"}, "format"),
    "not base64": ({"data": "%%"}, "data"),
    "another count": ({"expected_tokens": 4}, "expected_tokens"),
}


def with_image(**changes: object) -> dict:
    """A datum with an image of 3 tokens before its text."""
    image = {"type": "image", "data": base64.b64encode(IMAGE).decode(), "format": "png", "expected_tokens": 3}
    text = {"type": "encoded_text", "tokens": TOKENS}
    count = len(TOKENS) + 3
    return {
        "model_input": {"chunks": [{**image, **changes}, text]},
        "loss_fn_inputs": {
            "target_tokens": {"data": [0, 0, *TOKENS, 256], "dtype": "int64", "shape": [count]},
            "weights": {"data": [0.0] * 3 + [1.0] * (count - 3), "dtype": "float32", "shape": [count]},
        },
    }


def test_an_image_is_the_same_in_both_forms(api):
    """And it decides the loss; without a count of the client, the server counts."""
    model = api.model(api.session())
    chunks = [ImageChunk(data=IMAGE, format="png", expected_tokens=3), EncodedTextChunk(tokens=TOKENS)]
    inputs = {
        name: np.array(tensor["data"], dtype=tensor["dtype"])
        for name, tensor in with_image()["loss_fn_inputs"].items()
    }
    datum = Datum(model_input=ModelInput(chunks=chunks), loss_fn_inputs=inputs)
    request = PassRequest(model, 1, [datum], "cross_entropy", None, forward_only=True)

    receipt = send(api, write_pass_request(request).joined()).json()
    losses = [read_pass_output(result(api, receipt, PROTOBUF).content).metrics["loss:sum"]]
    other = base64.b64encode(png(40, 20, 1)).decode()
    for seq_id, changes in enumerate(({}, {"expected_tokens": None}, {"data": other}), start=2):
        passed = api.forward_backward(model, seq_id, data=[with_image(**changes)])
        losses.append(api.result(passed)["metrics"]["loss:sum"])

    assert losses[0] == losses[1] == losses[2] != losses[3]


@pytest.mark.parametrize("case", BAD_IMAGES)
def test_a_bad_image_is_refused(api, case: str):
    """With its field."""
    model = api.model(api.session())
    changes, field = BAD_IMAGES[case]
    body = {"data": [with_image(**changes)], "loss_fn": "cross_entropy"}
    answer = api.http.post(
        "forward_backward", json={"model_id": model, "seq_id": 1, "forward_backward_input": body}
    )

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-4:] == ["model_input", "chunks", 0, field]


def test_a_packed_forward_moves_nothing(api, server):
    """forward_only in the message accumulates no gradient."""
    model = api.model(api.session())

    send(api, packed(model, 1, forward_only=True))

    assert api.result(api.optim_step(model, 2))["metrics"]["grad_norm"] == 0
    assert [entry["kind"] for entry in server.log(model_id=model)][1] == "forward"


def test_a_sample_is_the_same_in_both_forms(api):
    """Tokens, log-probabilities and top tables agree; what is undefined is NaN on the wire, and read as None."""
    receipt = api.ok(
        "asample",
        base_model="tiny-lm",
        prompt={"chunks": [{"type": "encoded_text", "tokens": TOKENS}]},
        sampling_params={"max_tokens": 5, "seed": 1},
        num_samples=2,
        prompt_logprobs=True,
        topk_prompt_logprobs=2,
        topk_sample_logprobs=3,
    )

    plain = result(api, receipt, "application/json").json()
    binary = read_sample_response(result(api, receipt, PROTOBUF).content)

    assert [s.tokens for s in binary.sequences] == [s["tokens"] for s in plain["sequences"]]
    assert binary.prompt_logprobs == plain["prompt_logprobs"]
    assert [len(row) for row in binary.sequences[0].topk_logprobs] == [3] * 5
    assert binary.topk_prompt_logprobs[0] is None
    assert receipt["sample_sequence_ids"] == [f"{receipt['request_id']}:{n}" for n in range(2)]


@pytest.mark.parametrize(
    ("change", "place"),
    [({"targets": TARGETS[:-1]}, "data"), ({"targets": [999] * len(TARGETS)}, "data"), ({"loss": "x"}, "loss_fn")],
)
def test_a_wrong_packed_request_is_refused_by_name(api, change, place: str):
    """422 with the path in the JSON encoding, and the model stays usable."""
    model = api.model(api.session())

    refused = send(api, packed(model, 1, **change))

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][2] == place
    assert "metrics" in api.result(api.optim_step(model, 2))


def test_a_server_of_json_alone_says_so(tmp_path, connect):
    """415 for a protobuf request, and JSON answers whatever the client accepts."""
    with DevServer(tmp_path, protobuf=False) as server:
        api = connect(server)
        model = api.model(api.session())

        assert send(api, packed(model, 1)).status_code == 415
        receipt = api.forward_backward(model, 1)
        assert result(api, receipt, PROTOBUF).headers["content-type"] == "application/json"
