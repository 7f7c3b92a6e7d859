"""Whatever a server says, the error is typed and names the route or request, and the client stays usable."""

import contextlib
import gzip
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import Response, ScriptedServer, json_response

from backends.tinkex import ApiFuture, RestClient, ServiceClient, TrainingClient
from backends.tinkex.types import AdamParams, Datum, ModelInput, SamplingParams
from crucible.errors import (
    AnswerLost,
    BackendUnavailable,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    NotFound,
    OutOfCredit,
    RunCorrupted,
    Unsupported,
)

STEP = json_response({"request_id": "step"})


def usable(scripted: ScriptedServer, client: TrainingClient) -> bool:
    """Whether the next step goes through."""
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [json_response({"metrics": {"lr": 1.0}})]
    return client.optim_step(AdamParams()).result(10).metrics == {"lr": 1.0}


NO_RECORDS = [
    pytest.param(Response(b"[]"), id="a list"),
    pytest.param(Response(b'"text"'), id="a text"),
    pytest.param(Response(b"null"), id="null"),
    pytest.param(Response(b"{"), id="half an object"),
    pytest.param(Response(b"<html>", content_type="text/html"), id="a web page"),
    pytest.param(Response(b"\xff\xfe\x00"), id="bytes"),
    pytest.param(Response(b"x" * 200_000), id="enormous"),
    pytest.param(Response(b"{}", headers={"content-encoding": "gzip"}), id="no gzip"),
    pytest.param(Response(gzip.compress(b" " * 10_000_000), headers={"content-encoding": "gzip"}), id="a bomb"),
    pytest.param(Response(b'{"request_id"', announced=500), id="cut short"),
    pytest.param(json_response({"request_id": ""}), id="an empty id"),
    pytest.param(json_response({"request_id": None}), id="no id"),
    pytest.param(json_response({"request_id": {"a": 1}}), id="an id of another type"),
]


@pytest.mark.parametrize("reply", NO_RECORDS)
def test_an_acceptance_that_is_none(scripted: ScriptedServer, client: TrainingClient, reply: Response) -> None:
    """The error names the route."""
    scripted.script("optim_step", reply)

    with pytest.raises(MalformedAnswer, match="optim_step") as caught:
        client.optim_step(AdamParams()).result(10)

    sent = [request for request in scripted.received if request.route == "optim_step"]
    assert caught.value.request_id == sent[-1].headers["x-idempotency-key"]
    assert usable(scripted, client)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(json_response([]), id="a list"),
        pytest.param(json_response({"metrics": []}), id="metrics of another type"),
        pytest.param(json_response({"metrics": {"a": "text"}}), id="a metric of another type"),
        pytest.param(Response(b"{", content_type="application/json"), id="half an object"),
        pytest.param(Response(b"x" * 200_000), id="enormous"),
        pytest.param(Response(b"{}", announced=500), id="cut short"),
    ],
)
def test_a_result_that_is_none(scripted: ScriptedServer, client: TrainingClient, reply: Response) -> None:
    """The error is typed, and the client stays usable."""
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [reply]

    with pytest.raises((MalformedAnswer, BackendUnavailable)):
        client.optim_step(AdamParams()).result(10)

    assert usable(scripted, client)


@pytest.mark.parametrize(
    "body",
    [b"\xff", b"\x12\x05abc", b"\x12\x02\x18\x05", b"\x0a\x01\xff"],
    ids=["no tag", "cut", "counts", "no text"],
)
def test_a_broken_protobuf_result(
    scripted: ScriptedServer, client: TrainingClient, batch: list[Datum], body: bytes
) -> None:
    """It carries the request id; five datums without fields are read as such."""
    scripted.script("forward_backward", json_response({"request_id": "pass"}))
    scripted.futures["pass"] = [Response(body, content_type="application/x-protobuf")]

    future = client.forward_backward(batch, "cross_entropy")
    if body == b"\x12\x02\x18\x05":
        assert future.result(10).loss_fn_outputs == [{}] * 5
    else:
        with pytest.raises(MalformedAnswer) as caught:
            future.result(10)
        assert caught.value.request_id == "pass"
    assert usable(scripted, client)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(body=st.binary(max_size=60), status=st.sampled_from([200, 201, 302, 400, 404, 409, 410, 422]))
def test_any_answer_is_a_result_or_a_typed_error(
    scripted: ScriptedServer, client: TrainingClient, body: bytes, status: int
) -> None:
    """No answer makes anything else happen."""
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [Response(body, status)]

    with contextlib.suppress(CrucibleError):
        client.optim_step(AdamParams()).result(10)


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        pytest.param([json_response({"detail": "gone"}, 410)], AnswerLost, id="410"),
        pytest.param([json_response({"detail": "Future not found"}, 404)], AnswerLost, id="404"),
        pytest.param([json_response({"detail": "no credit"}, 402)], OutOfCredit, id="402"),
        pytest.param(
            [json_response({"error": "bad", "category": "user"})], InvalidRequest, id="failed by the user"
        ),
        pytest.param(
            [json_response({"error": "died", "category": "server"})], BackendUnavailable, id="failed by the server"
        ),
        pytest.param(
            [json_response({"error": "run is corrupted", "category": "server"})], RunCorrupted, id="poisoned"
        ),
        pytest.param([Response(b'{"metrics": {"grad_norm": NaN}}')], RunCorrupted, id="NaN"),
        pytest.param([Response(b'{"metrics": {"grad_norm": Infinity}}')], RunCorrupted, id="infinity"),
        pytest.param([json_response({"detail": "Unknown error"}, 500)], BackendUnavailable, id="500 for good"),
        pytest.param([Response(b"bad gateway", 400)], InvalidRequest, id="a bare 400 for good"),
        pytest.param([None], BackendUnavailable, id="silence"),
    ],
)
def test_a_result_that_never_comes(
    scripted: ScriptedServer, client: TrainingClient, replies: list[Any], kind: type[CrucibleError]
) -> None:
    """Each way has its error, in bounded time."""
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = replies

    with pytest.raises(CrucibleError) as caught:
        client.optim_step(AdamParams()).result(20)

    assert type(caught.value) is kind
    assert usable(scripted, client)


PROTOBUF_ONLY = json_response({"detail": "expected application/x-protobuf"}, 415)


def is_protobuf(request: Any) -> bool:
    """Whether a request came in protobuf."""
    return bool(request.headers.get("content-type") == "application/x-protobuf")


@pytest.mark.parametrize("refused", [415, 422, 400, 500])
def test_json_is_spoken_where_protobuf_is_not(
    scripted: ScriptedServer, client: TrainingClient, batch: list[Datum], refused: int
) -> None:
    """Found out once, under the same sequence number, and remembered."""
    scripted.script(
        "forward_backward",
        lambda request: (
            json_response({"detail": "?"}, refused)
            if is_protobuf(request)
            else json_response({"request_id": "pass"})
        ),
    )
    scripted.futures["pass"] = [json_response({"metrics": {}})]

    for _ in range(2):
        client.forward_backward(batch, "cross_entropy").result(10)

    sent = [request for request in scripted.received if request.route == "forward_backward"]
    assert [is_protobuf(request) for request in sent] == [True, False, False]
    assert [body["seq_id"] for body in scripted.bodies_of(sent[1:])] == [1, 2]
    assert client.service.features.request_encoding == "json"


def test_protobuf_is_kept_where_json_is_refused(
    scripted: ScriptedServer, client: TrainingClient, batch: list[Datum]
) -> None:
    """A batch that is refused on its merits does not make the client change its language."""
    scripted.script(
        "forward_backward",
        lambda request: json_response({"detail": "bad batch"}, 422) if is_protobuf(request) else PROTOBUF_ONLY,
    )

    with pytest.raises(InvalidRequest, match="bad batch"):
        client.forward_backward(batch, "cross_entropy").result(10)

    assert client.service.features.request_encoding == "protobuf"


def test_a_field_that_the_server_does_not_know_is_unsupported(
    scripted: ScriptedServer, client: TrainingClient
) -> None:
    """Not a bare 422, and not dropped in silence."""
    unknown = [{"type": "extra_forbidden", "loc": ["body", "ttl_seconds"], "msg": "Extra inputs are not permitted"}]
    scripted.script("save_weights", json_response({"detail": unknown}, 422))

    with pytest.raises(Unsupported, match="ttl_seconds"):
        client.save_state("a", ttl_seconds=3600).result(10)


def test_log_probabilities_that_the_server_does_not_give(scripted: ScriptedServer, make_service: Any) -> None:
    """A server that ignores the question is Unsupported; what is undefined is None."""
    service = make_service(scripted.url)
    scripted.script("create_sampling_session", json_response({"sampling_session_id": "ss"}))
    scripted.script("asample", json_response({"request_id": "draw"}))
    sampler = service.create_sampling_client(base_model="m")
    sequence = {"tokens": [1], "stop_reason": "length"}

    scripted.futures["draw"] = [json_response({"sequences": [sequence]})]
    with pytest.raises(Unsupported, match="log-probabilities"):
        sampler.compute_logprobs(ModelInput.from_ints([1, 2])).result(10)

    scripted.futures["draw"] = [Response(b'{"sequences": [], "prompt_logprobs": [NaN, -1.5]}')]
    assert sampler.compute_logprobs(ModelInput.from_ints([1, 2])).result(10) == [None, -1.5]
    assert scripted.bodies("asample")[-1]["prompt_logprobs"] is True


def test_a_lost_sample_is_drawn_again(scripted: ScriptedServer, make_service: Any) -> None:
    """A sample changes nothing, so it is asked for again: under its number, as the server may still have it."""
    service = make_service(scripted.url)
    scripted.script("create_sampling_session", json_response({"sampling_session_id": "ss"}))
    scripted.script("asample", json_response({"request_id": "one"}), json_response({"request_id": "two"}))
    scripted.futures["one"] = [json_response({"detail": "gone"}, 410)]
    scripted.futures["two"] = [json_response({"sequences": []})]

    sampler = service.create_sampling_client(base_model="m")

    assert sampler.sample(ModelInput.from_ints([1]), 1, SamplingParams(max_tokens=1)).result(10).sequences == []
    assert [body["seq_id"] for body in scripted.bodies("asample")] == [0, 0]


TIMED: dict[str, tuple[str, Callable[[RestClient], ApiFuture[Any]], Callable[[str], dict[str, Any]]]] = {
    "time of a checkpoint": (
        "training_runs/run/checkpoints",
        lambda rest: rest.list_checkpoints("run"),
        lambda text: {"checkpoints": [{"checkpoint_id": "a", "time": text}]},
    ),
    "expires_at of a checkpoint": (
        "checkpoints",
        lambda rest: rest.list_user_checkpoints(),
        lambda text: {"checkpoints": [{"checkpoint_id": "a", "expires_at": text}]},
    ),
    "last_request_time of a run": (
        "training_runs/run",
        lambda rest: rest.get_training_run("run"),
        lambda text: {"training_run_id": "run", "last_request_time": text},
    ),
    "time of a run's last checkpoint": (
        "training_runs",
        lambda rest: rest.list_training_runs(),
        lambda text: {"training_runs": [{"training_run_id": "run", "last_checkpoint": {"time": text}}]},
    ),
}


@pytest.mark.parametrize("text", ["9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"])
@pytest.mark.parametrize("name", TIMED)
def test_a_time_outside_of_the_calendar(
    scripted: ScriptedServer, make_service: Callable[[str], ServiceClient], name: str, text: str
) -> None:
    """It would break whatever compares or stores it in UTC later; another time is read."""
    route, ask, answer = TIMED[name]
    rest = make_service(scripted.url).create_rest_client()
    scripted.script(route, json_response(answer(text)), json_response(answer("2026-11-01T12:00:00+02:00")))

    with pytest.raises(MalformedAnswer, match="is outside of the years 1 to 9999 in UTC"):
        ask(rest).result(10)

    assert "2026-11-01T10:00:00Z" in ask(rest).result(10).model_dump_json()


def test_a_download_leaves_no_half_file(scripted: ScriptedServer, make_service: Any, tmp_path: Any) -> None:
    """It breaks off: no file. It is elsewhere: no credential goes there. It is no HTTP: Unsupported."""
    rest = make_service(scripted.url).create_rest_client()
    path, target = "tinker://run/weights/a", tmp_path / "deep" / "a.tar"
    archive = "training_runs/run/checkpoints/weights/a/archive"
    with ScriptedServer() as elsewhere:
        scripted.script(archive, json_response({}, 302, location=f"{elsewhere.url}/file"))
        elsewhere.script("/file", Response(b"half", announced=100))
        with pytest.raises(CrucibleError):
            rest.download_checkpoint_archive(path, target).result(10)
        assert list(tmp_path.rglob("*a.tar*")) == []

        elsewhere.script("/file", Response(b"whole"))
        assert rest.download_checkpoint_archive(path, target).result(10).read_bytes() == b"whole"
        assert all("x-api-key" not in request.headers for request in elsewhere.received)

        elsewhere.script("/file", json_response({"detail": "no such file"}, 404))
        with pytest.raises(NotFound):
            rest.download_checkpoint_archive(path, target).result(10)

    scripted.script(archive, json_response({}, 302, location="/file"))
    scripted.script("/file", Response(b"ours"))
    assert rest.download_checkpoint_archive(path, target).result(10).read_bytes() == b"ours"
    assert scripted.received[-1].headers["x-api-key"] == "tml-test"

    scripted.script(archive, json_response({}, 302, location="file:///etc/hostname"))
    with pytest.raises(Unsupported):
        rest.download_checkpoint_archive(path, target).result(10)
    scripted.script(archive, json_response({}, 302))
    with pytest.raises(MalformedAnswer):
        rest.get_checkpoint_archive_url_from_tinker_path(path).result(10)
