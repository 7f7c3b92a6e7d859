"""Invalid input is refused with the field's path, never with a 500, and the server continues."""

import copy
import json
import socket
from typing import Any
from urllib.parse import urlsplit

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

QUIET = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NEW = {"session_id": "SESSION", "model_seq_id": 0}
DATUM = {
    "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2, 3]}]},
    "loss_fn_inputs": {
        "target_tokens": {"data": [2, 3, 4], "dtype": "int64"},
        "weights": {"data": [1.0, 1.0, 1.0], "dtype": "float32"},
    },
}


@pytest.fixture
def model(api) -> str:
    return api.model(api.session())


def changed(place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A valid body with one value replaced."""
    if not place:
        return value
    body: Any = {"data": [copy.deepcopy(DATUM)], "loss_fn": "cross_entropy", "loss_fn_config": None}
    at = body
    for key in place[:-1]:
        at = at[key]
    at[place[-1]] = value
    return body


TENSORS = ("data", 0, "loss_fn_inputs")
CASES: dict[str, tuple[tuple[str | int, ...], Any]] = {
    "no data": (("data",), []),
    "unknown loss": (("loss_fn",), "hinge"),
    "setting of another loss": (("loss_fn_config",), {"beta": 1.0}),
    "token outside the vocabulary": (("data", 0, "model_input", "chunks", 0, "tokens"), [1, 2, 320]),
    "negative token": (("data", 0, "model_input", "chunks", 0, "tokens"), [1, -2, 3]),
    "token that is text": (("data", 0, "model_input", "chunks", 0, "tokens"), [1, "2", 3]),
    "huge token": (("data", 0, "model_input", "chunks", 0, "tokens"), [1, 2, 2**80]),
    "unknown chunk": (("data", 0, "model_input", "chunks", 0, "type"), "dmel"),
    "no chunks": (("data", 0, "model_input", "chunks"), []),
    "targets too short": ((*TENSORS, "target_tokens", "data"), [2, 3]),
    "target outside the vocabulary": ((*TENSORS, "target_tokens", "data"), [2, 3, 999]),
    "targets of the wrong type": ((*TENSORS, "target_tokens", "dtype"), "float32"),
    "weights too long": ((*TENSORS, "weights", "data"), [1.0] * 4),
    "weights not finite": ((*TENSORS, "weights", "data"), [1.0, float("nan"), 1.0]),
    "shape that does not fit": ((*TENSORS, "weights", "shape"), [2, 2]),
    "unknown dtype": ((*TENSORS, "weights", "dtype"), "complex64"),
    "tensor that is a list": ((*TENSORS, "weights"), [1.0, 1.0, 1.0]),
    "a float beyond float32": ((*TENSORS, "weights", "data"), [1e300]),
    "an integer beyond 64 bits": ((*TENSORS, "target_tokens", "data"), [2**63]),
    "a token beyond 64 bits": (("data", 0, "model_input", "chunks", 0, "tokens"), [2**63]),
}


@pytest.mark.parametrize(("place", "value"), CASES.values(), ids=CASES.keys())
def test_a_wrong_datum_is_refused_by_name(api, model, place, value):
    """422 has the field's path, and the next request trains."""
    refused = api.call("forward_backward", model_id=model, seq_id=1, forward_backward_input=changed(place, value))

    assert refused.status_code == 422, refused.text
    loc = refused.json()["detail"][0]["loc"]
    assert loc[:2] == ["body", "forward_backward_input"]
    assert loc[2] == place[0]
    assert "metrics" in api.result(api.forward_backward(model, 2))


@pytest.mark.parametrize(
    ("route", "body", "field"),
    [
        ("create_session", {"tags": 3}, "tags"),
        ("create_model", {"session_id": "x", "model_seq_id": 0, "base_model": "tiny-lm"}, "lora_config"),
        ("optim_step", {"model_id": "x", "adam_params": {"beta1": 1.5}}, "adam_params"),
        ("optim_step", {"model_id": "x", "seq_id": 2**40, "adam_params": {}}, "seq_id"),
        ("save_weights", {"model_id": "x", "ttl_seconds": 0}, "ttl_seconds"),
        ("asample", {"prompt": {"chunks": []}, "sampling_params": {}}, "prompt"),
        ("asample", {"prompt": {"chunks": [{}]}, "sampling_params": {"top_p": 2}}, "sampling_params"),
        ("retrieve_future", {}, "request_id"),
    ],
)
def test_a_wrong_field_is_named(api, route: str, body, field: str):
    """422 with the field's path."""
    refused = api.call(route, **body)

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][:2] == ["body", field]


@pytest.mark.parametrize(
    ("route", "body", "status"),
    [
        ("create_model", {**NEW, "base_model": "gpt-9", "lora_config": {"rank": 1}}, 400),
        ("create_model", {**NEW, "base_model": "tiny-lm", "lora_config": {"rank": 0}}, 422),
        ("weights_info", {"tinker_path": "tinker://x/weights"}, 400),
        ("weights_info", {"tinker_path": "tinker://x/weights/y"}, 404),
        ("get_info", {"model_id": "x"}, 404),
        ("create_sampling_session", {"session_id": "SESSION", "sampling_session_seq_id": 0}, 422),
    ],
)
def test_what_does_not_exist_or_fit_has_its_status(api, route: str, body, status: int):
    """Each kind of invalid request has the status on which clients rely."""
    body = {key: api.session() if value == "SESSION" else value for key, value in body.items()}

    assert api.call(route, **body).status_code == status


def test_a_save_under_a_bad_name_is_refused(api, model):
    """A name that would escape its folder is 422."""
    for name in ("../x", "a/b", "", ".hidden", "x" * 201):
        assert api.call("save_weights", model_id=model, seq_id=1, path=name).status_code == 422


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
PLACES = [*sorted({place for place, _ in CASES.values()}, key=str), ("data", 0), ("data",)]


@QUIET
@given(place=st.sampled_from(PLACES), value=json_values)
def test_nothing_in_a_training_body_breaks_the_server(api, model, place, value):
    """Any value anywhere in a body is accepted, or refused with 4xx and a path."""
    answer = api.http.post(
        "forward_backward",
        content=json.dumps({"model_id": model, "forward_backward_input": changed(place, value)}),
    )

    assert answer.status_code < 500, answer.text
    if answer.status_code == 422:
        assert answer.json()["detail"][0]["loc"][0] == "body"


@QUIET
@given(
    route=st.sampled_from(
        [
            "create_session",
            "session_heartbeat",
            "create_model",
            "get_info",
            "forward_backward",
            "forward",
            "optim_step",
            "save_weights",
            "save_weights_for_sampler",
            "save_weights_external",
            "create_custom_loss",
            "copy_weights",
            "join_sampling_session",
            "retrieve_futures",
            "load_weights",
            "create_sampling_session",
            "asample",
            "retrieve_future",
            "unload_model",
            "weights_info",
        ]
    ),
    body=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()),
    encoding=st.sampled_from(["identity", "zstd", "br"]),
    kind=st.sampled_from(["application/json", "application/x-protobuf", "text/plain"]),
)
def test_no_body_at_all_breaks_the_server(api, route: str, body: bytes, encoding: str, kind: str):
    """Any bytes on any route, with any content encoding, are answered below 500."""
    answer = api.http.post(route, content=body, headers={"content-encoding": encoding, "content-type": kind})

    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize("query", ["limit=x", "limit=-1", "offset=1.5"])
def test_a_wrong_page_is_refused(api, query: str):
    """422 names the parameter of the query."""
    refused = api.http.get(f"training_runs?{query}")

    assert refused.status_code == 422
    assert refused.json()["detail"][0]["loc"][0] == "query"


def test_a_client_that_hangs_up_in_the_middle_is_no_error_of_the_server(api, server, caplog) -> None:
    """Half a body, then a disconnect: the server logs nothing and answers the next request."""
    address = urlsplit(server.url)
    with socket.create_connection((address.hostname, address.port), timeout=120) as line:
        head = "POST /api/v1/get_info HTTP/1.1\r\nHost: x\r\nX-API-Key: tml-test\r\nContent-Length: 1000\r\n\r\n"
        line.sendall(head.encode() + b'{"model_id"')
        line.shutdown(socket.SHUT_WR)
        assert line.recv(1000) == b""

    assert api.http.get("healthz").status_code == 200
    assert [record.getMessage() for record in caplog.records if record.name.startswith("uvicorn")] == []
