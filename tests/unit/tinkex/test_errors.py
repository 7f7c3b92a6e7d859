"""One table from what a server says to the family of errors."""

import json
import pickle
from typing import Any

import pytest

from backends.tinkex.errors import (
    ClientClosed,
    ErrorResponse,
    RequestNotSent,
    Resource,
    WrongLoop,
    error_from_failed_request,
    error_from_response,
    is_unknown_route,
    malformed,
    unsupported,
)
from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    NameTaken,
    NotFound,
    OutOfCredit,
    RequestTimeout,
    RunCorrupted,
    RunGone,
    Unsupported,
)


def error_response(status: int, detail: Any, resource: Resource = Resource.RUN, **headers: str) -> ErrorResponse:
    """An answer as most servers write it."""
    body = json.dumps({"detail": detail}).encode()
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return ErrorResponse(status, "optim_step", body, resource, named, request_id="req-1")


MODEL_GONE = "Model 'model_1' not found"
TABLE = [
    pytest.param(error_response(401, "bad key"), AuthenticationFailed, id="401"),
    pytest.param(error_response(403, "forbidden"), AuthenticationFailed, id="403"),
    pytest.param(error_response(402, "no credit"), OutOfCredit, id="402"),
    pytest.param(error_response(404, MODEL_GONE), RunGone, id="404 run"),
    pytest.param(error_response(404, "Session not found", Resource.SESSION), RunGone, id="404 session"),
    pytest.param(error_response(404, "Future not found", Resource.FUTURE), AnswerLost, id="404 future"),
    pytest.param(error_response(404, "Unknown model: x", Resource.FUTURE), RunGone, id="404 future of a lost run"),
    pytest.param(
        error_response(404, "Checkpoint a not found.", Resource.FUTURE), NotFound, id="404 future of a bad path"
    ),
    pytest.param(error_response(404, "Model not found", Resource.CHECKPOINT), NotFound, id="404 checkpoint"),
    pytest.param(error_response(404, "Model not found", Resource.RECORD), NotFound, id="404 record"),
    pytest.param(error_response(404, "Unknown model: nope", Resource.MODEL), InvalidRequest, id="404 base model"),
    pytest.param(
        error_response(404, "Failed to create sampling session: Unknown model: x", Resource.MODEL),
        InvalidRequest,
        id="404 base model of a session",
    ),
    pytest.param(
        error_response(404, "Session not found", Resource.MODEL), RunGone, id="404 session of a new model"
    ),
    pytest.param(error_response(404, "Not Found"), Unsupported, id="404 route"),
    pytest.param(error_response(405, "Method Not Allowed"), Unsupported, id="405"),
    pytest.param(error_response(501, "later"), Unsupported, id="501"),
    pytest.param(error_response(408, "slow"), RequestTimeout, id="408"),
    pytest.param(error_response(409, "Checkpoint 'a' already exists", Resource.SAVE), NameTaken, id="409 save"),
    pytest.param(error_response(409, "conflict", Resource.SAVE), NameTaken, id="409 save, terse"),
    pytest.param(
        error_response(409, "expected seq_id 2, got 3", Resource.SAVE), InvalidRequest, id="409 order of a save"
    ),
    pytest.param(error_response(409, "expected 2, got 3"), InvalidRequest, id="409 order"),
    pytest.param(
        error_response(409, "Checkpoint already exists", Resource.FUTURE), NameTaken, id="409 future of a save"
    ),
    pytest.param(error_response(410, "gone", Resource.FUTURE), AnswerLost, id="410 future"),
    pytest.param(error_response(410, "gone"), RunGone, id="410 run"),
    pytest.param(error_response(429, "slow down"), CapacityError, id="429"),
    pytest.param(error_response(400, "no"), InvalidRequest, id="400"),
    pytest.param(error_response(413, "too large"), InvalidRequest, id="413"),
    pytest.param(error_response(422, "no"), InvalidRequest, id="422"),
    pytest.param(
        error_response(400, "Model model_1 not loaded", Resource.FUTURE), RunGone, id="400 future of a lost run"
    ),
    pytest.param(error_response(400, "the model is poisoned"), RunCorrupted, id="400 poisoned"),
    pytest.param(error_response(500, "loss is NaN"), RunCorrupted, id="500 NaN"),
    pytest.param(error_response(500, "Internal Server Error"), BackendUnavailable, id="500"),
    pytest.param(error_response(503, "later"), BackendUnavailable, id="503"),
    pytest.param(error_response(302, "elsewhere"), MalformedAnswer, id="302"),
]


@pytest.mark.parametrize(("response", "kind"), TABLE)
def test_every_refusal_has_its_error(response: ErrorResponse, kind: type[CrucibleError]) -> None:
    """The kind is right, and status, route, backend and request id are in it."""
    error = error_from_response(response)

    assert type(error) is kind
    assert error.details["status"] == response.status
    assert error.details["route"] == "optim_step"
    assert (error.backend, error.request_id) == ("tinkex", "req-1")


@pytest.mark.parametrize(
    ("message", "category", "kind"),
    [
        pytest.param("bad loss_fn", "user", InvalidRequest, id="user"),
        pytest.param("worker died", "server", BackendUnavailable, id="server"),
        pytest.param("who knows", "unknown", BackendUnavailable, id="unknown"),
        pytest.param("run r is corrupted", "server", RunCorrupted, id="corrupted"),
        pytest.param("non-finite gradients", "server", RunCorrupted, id="not finite"),
        pytest.param("model m was unloaded", "server", RunGone, id="gone"),
        pytest.param("Checkpoint tinker://r/weights/a does not exist", "user", NotFound, id="checkpoint"),
    ],
)
def test_every_failed_future_has_its_error(message: str, category: str, kind: type[CrucibleError]) -> None:
    """By the words first, then by whose fault the server says it is."""
    error = error_from_failed_request(message, category, route="optim_step", request_id="r1")

    assert type(error) is kind
    assert error.request_id == "r1"
    assert message in str(error)


def test_the_field_is_named() -> None:
    """A server's list of what is wrong gives its first place as the field."""
    detail = [
        {"loc": ["body", "adam_params", "beta1"], "msg": "must be below 1"},
        {"loc": ["body", "x"], "msg": "y"},
    ]

    error = error_from_response(error_response(422, detail))

    assert error.details["field"] == "adam_params.beta1"
    assert "must be below 1" in str(error)


def test_the_credential_is_named_not_shown() -> None:
    """A refused key is spoken of by the name of its variable."""
    assert "TINKER_API_KEY" in str(error_from_response(error_response(401, "no")))


@pytest.mark.parametrize(
    "body", [b"", b"<html>gateway</html>", b"\xff\xfe", b"[1]", b'{"detail": {"a": 1}}', b"9" * 10**6]
)
def test_any_body_of_a_refusal_is_understood(body: bytes) -> None:
    """What cannot be read is left out; what is endless is cut."""
    error = error_from_response(ErrorResponse(500, "optim_step", body, Resource.RUN, {}))

    assert isinstance(error, BackendUnavailable)
    assert len(str(error)) < 2000


def test_a_missing_route_is_told_from_a_missing_thing() -> None:
    """Only a bare 404 is a missing route."""
    assert is_unknown_route(error_response(404, "Not Found"))
    assert not is_unknown_route(error_response(404, "Checkpoint not found"))


@pytest.mark.parametrize(
    "error",
    [
        error_from_response(error_response(429, "later", retry_after="3")),
        RequestNotSent("not sent", details={"seq_id": 3}),
        WrongLoop("await it"),
        ClientClosed("closed"),
        malformed("no JSON", route="get_info"),
        unsupported("archives", server="http://x"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: CrucibleError) -> None:
    """With all they carry."""
    copy = pickle.loads(pickle.dumps(error))

    assert (type(copy), str(copy), copy.failure()) == (type(error), str(error), error.failure())


ODD_BODIES = {
    "a loc that is a number": b'{"detail": [{"loc": 5, "msg": "no"}]}',
    "a loc with odd steps": b'{"detail": [{"loc": [{"a": 1}, null, [2]], "msg": {"b": []}}]}',
    "1,000 nested lists": b"[" * 1_000 + b"]" * 1_000,
    "1,000 nested lists as the detail": b'{"detail": ' + b"[" * 1_000 + b"]" * 1_000 + b"}",
    "100,000 nested objects": b'{"detail":' * 100_000,
    "a detail that is null": b'{"detail": null}',
    "an empty list": b'{"detail": []}',
    "no object": b"5",
    "an integer of 5,000 digits": b'{"detail": ' + b"9" * 5_000 + b"}",
    "half a surrogate": b'{"detail": "\\ud800"}',
    "no UTF-8": b'{"detail": "\xff\xfe"}',
    "nothing": b"",
}


@pytest.mark.parametrize(
    ("status", "kind"),
    [(401, AuthenticationFailed), (422, InvalidRequest), (429, CapacityError), (503, BackendUnavailable)],
)
@pytest.mark.parametrize("body", ODD_BODIES.values(), ids=ODD_BODIES)
def test_an_odd_error_body_is_an_error_of_its_status(body: bytes, status: int, kind: type[CrucibleError]) -> None:
    """Whatever its form and depth; and the error can be stored."""
    error = error_from_response(ErrorResponse(status, "optim_step", body, Resource.RUN, {}))

    assert type(error) is kind
    assert len(error.failure().model_dump_json()) < 10_000
