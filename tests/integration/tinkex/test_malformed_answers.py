"""Whatever a server says, the error is typed and names the route or request, and the client stays usable."""

import contextlib
import gzip
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rude_server import RudeServer, Said, said

from backends.tinkex import QueueReport, ServiceClient, TrainingClient
from backends.tinkex.types import AdamParams, Datum, ModelInput, QueueState, SamplingParams
from backends.tinkex.wire.transport import HttpLimits
from crucible.errors import (
    AnswerLost,
    BackendUnavailable,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    NotFound,
    OutOfCredit,
    RequestTimeout,
    RunCorrupted,
    Unsupported,
)

STEP = said({"request_id": "step"})


@pytest.fixture
def rude() -> Iterator[RudeServer]:
    """A server to be scripted."""
    with RudeServer() as server:
        yield server


@pytest.fixture
def client(rude: RudeServer, make_service: Any) -> TrainingClient:
    """A run on it."""
    service: ServiceClient = make_service(rude.url, limits=HttpLimits(max_response_bytes=100_000))
    return service.create_lora_training_client("m")


def usable(rude: RudeServer, client: TrainingClient) -> bool:
    """Whether the next step goes through."""
    rude.script("optim_step", STEP)
    rude.futures["step"] = [said({"metrics": {"lr": 1.0}})]
    return client.optim_step(AdamParams()).result(10).metrics == {"lr": 1.0}


NO_RECORDS = [
    pytest.param(Said(b"[]"), id="a list"),
    pytest.param(Said(b'"text"'), id="a text"),
    pytest.param(Said(b"null"), id="null"),
    pytest.param(Said(b"{"), id="half an object"),
    pytest.param(Said(b"<html>", content_type="text/html"), id="a web page"),
    pytest.param(Said(b"\xff\xfe\x00"), id="bytes"),
    pytest.param(Said(b"x" * 200_000), id="enormous"),
    pytest.param(Said(b"{}", headers={"content-encoding": "gzip"}), id="no gzip"),
    pytest.param(Said(gzip.compress(b" " * 10_000_000), headers={"content-encoding": "gzip"}), id="a bomb"),
    pytest.param(Said(b'{"request_id"', announced=500), id="cut short"),
    pytest.param(said({"request_id": ""}), id="an empty id"),
    pytest.param(said({"request_id": None}), id="no id"),
    pytest.param(said({"request_id": {"a": 1}}), id="an id of another type"),
]


@pytest.mark.parametrize("reply", NO_RECORDS)
def test_an_acceptance_that_is_none(rude: RudeServer, client: TrainingClient, reply: Said) -> None:
    """The error names the route."""
    rude.script("optim_step", reply)

    with pytest.raises(MalformedAnswer, match="optim_step") as caught:
        client.optim_step(AdamParams()).result(10)

    sent = [heard for heard in rude.heard if heard.route == "optim_step"]
    assert caught.value.request_id == sent[-1].headers["x-idempotency-key"]
    assert usable(rude, client)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(said([]), id="a list"),
        pytest.param(said({"metrics": []}), id="metrics of another type"),
        pytest.param(said({"metrics": {"a": "text"}}), id="a metric of another type"),
        pytest.param(Said(b"{", content_type="application/json"), id="half an object"),
        pytest.param(Said(b"x" * 200_000), id="enormous"),
        pytest.param(Said(b"{}", announced=500), id="cut short"),
    ],
)
def test_a_result_that_is_none(rude: RudeServer, client: TrainingClient, reply: Said) -> None:
    """The error is typed, and the client stays usable."""
    rude.script("optim_step", STEP)
    rude.futures["step"] = [reply]

    with pytest.raises((MalformedAnswer, BackendUnavailable)):
        client.optim_step(AdamParams()).result(10)

    assert usable(rude, client)


@pytest.mark.parametrize(
    "body",
    [b"\xff", b"\x12\x05abc", b"\x12\x02\x18\x05", b"\x0a\x01\xff"],
    ids=["no tag", "cut", "counts", "no text"],
)
def test_a_broken_protobuf_result(
    rude: RudeServer, client: TrainingClient, batch: list[Datum], body: bytes
) -> None:
    """It carries the request id; five datums without fields are read as such."""
    rude.script("forward_backward", said({"request_id": "pass"}))
    rude.futures["pass"] = [Said(body, content_type="application/x-protobuf")]

    future = client.forward_backward(batch, "cross_entropy")
    if body == b"\x12\x02\x18\x05":
        assert future.result(10).loss_fn_outputs == [{}] * 5
    else:
        with pytest.raises(MalformedAnswer) as caught:
            future.result(10)
        assert caught.value.request_id == "pass"
    assert usable(rude, client)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=25)
@given(body=st.binary(max_size=60), status=st.sampled_from([200, 201, 302, 400, 404, 409, 410, 422]))
def test_any_answer_is_a_result_or_a_typed_error(
    rude: RudeServer, client: TrainingClient, body: bytes, status: int
) -> None:
    """No answer makes anything else happen."""
    rude.script("optim_step", STEP)
    rude.futures["step"] = [Said(body, status)]

    with contextlib.suppress(CrucibleError):
        client.optim_step(AdamParams()).result(10)


@pytest.mark.parametrize(
    ("replies", "kind"),
    [
        pytest.param([said({"detail": "gone"}, 410)], AnswerLost, id="410"),
        pytest.param([said({"detail": "Future not found"}, 404)], AnswerLost, id="404"),
        pytest.param([said({"detail": "no credit"}, 402)], OutOfCredit, id="402"),
        pytest.param([said({"error": "bad", "category": "user"})], InvalidRequest, id="failed by the user"),
        pytest.param(
            [said({"error": "died", "category": "server"})], BackendUnavailable, id="failed by the server"
        ),
        pytest.param([said({"error": "run is corrupted", "category": "server"})], RunCorrupted, id="poisoned"),
        pytest.param([Said(b'{"metrics": {"grad_norm": NaN}}')], RunCorrupted, id="NaN"),
        pytest.param([Said(b'{"metrics": {"grad_norm": Infinity}}')], RunCorrupted, id="infinity"),
        pytest.param([said({"detail": "Unknown error"}, 500)], BackendUnavailable, id="500 for good"),
        pytest.param([Said(b"bad gateway", 400)], InvalidRequest, id="a bare 400 for good"),
        pytest.param([None], BackendUnavailable, id="silence"),
    ],
)
def test_a_result_that_never_comes(
    rude: RudeServer, client: TrainingClient, replies: list[Any], kind: type[CrucibleError]
) -> None:
    """Each way has its error, in bounded time."""
    rude.script("optim_step", STEP)
    rude.futures["step"] = replies

    with pytest.raises(CrucibleError) as caught:
        client.optim_step(AdamParams()).result(20)

    assert type(caught.value) is kind
    assert usable(rude, client)


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(said({"type": "try_again", "queue_state": "active"}), id="try again"),
        pytest.param(said({"queue_state": "active"}, 408), id="408"),
        pytest.param(Said(b"not even JSON", 408), id="bare 408"),
        pytest.param(said({"status": "complete_metadata", "size": 5}), id="metadata only"),
        pytest.param(said({"detail": "later"}, 503), id="503"),
        pytest.param(said({"detail": "slow down"}, 429, retry_after="0.01"), id="429"),
        pytest.param(Said(b"bad gateway", 400), id="a bare 400 from a proxy"),
        pytest.param(said({"detail": "Internal Server Error"}, 500), id="500 once"),
        pytest.param(None, id="a closed connection"),
        pytest.param(b"garbage\r\n\r\n", id="no HTTP"),
        pytest.param(Said(b'{"metrics"', announced=500), id="cut short"),
    ],
)
def test_passing_troubles_of_a_result_are_waited_out(
    rude: RudeServer, client: TrainingClient, trouble: Any
) -> None:
    """And the request itself is not sent again."""
    rude.script("optim_step", STEP)
    rude.futures["step"] = [trouble, trouble, said({"metrics": {"a": 1.0}})]

    assert client.optim_step(AdamParams()).result(10).metrics == {"a": 1.0}
    assert len(rude.bodies("optim_step")) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(said({"detail": "later"}, 503), id="503"),
        pytest.param(said({"detail": "slow down"}, 429, retry_after="0.01"), id="429"),
        pytest.param(said({"detail": "slow"}, 408), id="408"),
        pytest.param(None, id="a closed connection"),
        pytest.param(Said(b'{"request', announced=500), id="cut short"),
    ],
)
def test_a_repeat_is_the_same_request(rude: RudeServer, client: TrainingClient, trouble: Any) -> None:
    """The same bytes, the same sequence number, the same idempotency key."""
    rude.script("optim_step", trouble, trouble, STEP)
    rude.futures["step"] = [said({})]

    client.optim_step(AdamParams()).result(10)

    sent = [heard for heard in rude.heard if heard.route == "optim_step"]
    assert len(sent) == 3
    assert len({heard.body for heard in sent}) == 1
    assert len({heard.headers["x-idempotency-key"] for heard in sent}) == 1


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        pytest.param(None, AnswerLost, id="a closed connection"),
        pytest.param(said({}, 502), AnswerLost, id="502"),
        pytest.param(Said(b"{", announced=500), AnswerLost, id="cut short"),
        pytest.param(said({}, 503), None, id="503: it was not taken"),
    ],
)
def test_what_would_count_twice_is_not_repeated(
    rude: RudeServer, client: TrainingClient, trouble: Any, kind: type[CrucibleError] | None
) -> None:
    """On a server that runs a repeat again, what may have arrived is lost, not sent twice."""
    client.service.connection.memory.learn(replays_seq_id=False)
    rude.script("optim_step", trouble, STEP)
    rude.futures["step"] = [said({})]

    if kind is None:
        client.optim_step(AdamParams()).result(10)
    else:
        with pytest.raises(kind):
            client.optim_step(AdamParams()).result(10)
    assert len(rude.bodies("optim_step")) == (2 if kind is None else 1)


def test_waiting_is_reported_once_a_minute(rude: RudeServer, make_service: Any) -> None:
    """The first pause at once, with its reason; then silence for a minute."""
    now = [0.0]
    reports: list[QueueReport] = []

    async def sleep(seconds: float) -> None:
        now[0] += max(seconds, 5.0)

    service = make_service(rude.url, observer=reports.append, clock=lambda: now[0], sleep=sleep)
    client = service.create_lora_training_client("m")
    paused = said({"queue_state": "paused_capacity", "queue_state_reason": "no GPU is free"}, 408)
    rude.script("optim_step", STEP)
    rude.futures["step"] = [said({"queue_state": "active"}, 408), *([paused] * 30), said({})]

    client.optim_step(AdamParams()).result(20)

    assert [(one.state, one.reason, one.request_id) for one in reports] == [
        (QueueState.PAUSED_CAPACITY, "no GPU is free", "step")
    ] * len(reports)
    assert 2 <= len(reports) <= 4
    assert all(later.waited_s - sooner.waited_s >= 60 for sooner, later in pairwise(reports))


def test_no_progress_has_an_end(rude: RudeServer, make_service: Any) -> None:
    """A request that is active for ever is given up; one that is paused is not."""
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += max(seconds, 5.0)

    service = make_service(rude.url, no_progress_s=60, clock=lambda: now[0], sleep=sleep)
    client = service.create_lora_training_client("m")
    rude.script("optim_step", STEP)
    rude.futures["step"] = [
        *([said({"queue_state": "paused_rate_limit"}, 408)] * 20),
        said({"queue_state": "active"}, 408),
    ]

    with pytest.raises(RequestTimeout, match="no progress") as caught:
        client.optim_step(AdamParams()).result(20)

    assert caught.value.request_id == "step"
    assert now[0] > 150


PROTOBUF_ONLY = said({"detail": "expected application/x-protobuf"}, 415)


def is_protobuf(heard: Any) -> bool:
    """Whether a request came in protobuf."""
    return bool(heard.headers.get("content-type") == "application/x-protobuf")


@pytest.mark.parametrize("refused", [415, 422, 400, 500])
def test_json_is_spoken_where_protobuf_is_not(
    rude: RudeServer, client: TrainingClient, batch: list[Datum], refused: int
) -> None:
    """Found out once, under the same sequence number, and remembered."""
    rude.script(
        "forward_backward",
        lambda heard: said({"detail": "?"}, refused) if is_protobuf(heard) else said({"request_id": "pass"}),
    )
    rude.futures["pass"] = [said({"metrics": {}})]

    for _ in range(2):
        client.forward_backward(batch, "cross_entropy").result(10)

    sent = [heard for heard in rude.heard if heard.route == "forward_backward"]
    assert [is_protobuf(heard) for heard in sent] == [True, False, False]
    assert [body["seq_id"] for body in rude.bodies_of(sent[1:])] == [1, 2]
    assert client.service.features.request_encoding == "json"


def test_protobuf_is_kept_where_json_is_refused(
    rude: RudeServer, client: TrainingClient, batch: list[Datum]
) -> None:
    """A batch that is refused on its merits does not make the client change its language."""
    rude.script(
        "forward_backward",
        lambda heard: said({"detail": "bad batch"}, 422) if is_protobuf(heard) else PROTOBUF_ONLY,
    )

    with pytest.raises(InvalidRequest, match="bad batch"):
        client.forward_backward(batch, "cross_entropy").result(10)

    assert client.service.features.request_encoding == "protobuf"


def test_a_field_that_the_server_does_not_know_is_unsupported(rude: RudeServer, client: TrainingClient) -> None:
    """Not a bare 422, and not dropped in silence."""
    unknown = [{"type": "extra_forbidden", "loc": ["body", "ttl_seconds"], "msg": "Extra inputs are not permitted"}]
    rude.script("save_weights", said({"detail": unknown}, 422))

    with pytest.raises(Unsupported, match="ttl_seconds"):
        client.save_state("a", ttl_seconds=3600).result(10)


def test_log_probabilities_that_the_server_does_not_give(rude: RudeServer, make_service: Any) -> None:
    """A server that ignores the question is Unsupported; what is undefined is None."""
    service = make_service(rude.url)
    rude.script("create_sampling_session", said({"sampling_session_id": "ss"}))
    rude.script("asample", said({"request_id": "draw"}))
    sampler = service.create_sampling_client(base_model="m")
    sequence = {"tokens": [1], "stop_reason": "length"}

    rude.futures["draw"] = [said({"sequences": [sequence]})]
    with pytest.raises(Unsupported, match="log-probabilities"):
        sampler.compute_logprobs(ModelInput.from_ints([1, 2])).result(10)

    rude.futures["draw"] = [Said(b'{"sequences": [], "prompt_logprobs": [NaN, -1.5]}')]
    assert sampler.compute_logprobs(ModelInput.from_ints([1, 2])).result(10) == [None, -1.5]
    assert rude.bodies("asample")[-1]["prompt_logprobs"] is True


def test_a_lost_sample_is_drawn_again(rude: RudeServer, make_service: Any) -> None:
    """A sample changes nothing, so it is asked for again under a new number."""
    service = make_service(rude.url)
    rude.script("create_sampling_session", said({"sampling_session_id": "ss"}))
    rude.script("asample", said({"request_id": "one"}), said({"request_id": "two"}))
    rude.futures["one"] = [said({"detail": "gone"}, 410)]
    rude.futures["two"] = [said({"sequences": []})]

    sampler = service.create_sampling_client(base_model="m")

    assert sampler.sample(ModelInput.from_ints([1]), 1, SamplingParams(max_tokens=1)).result(10).sequences == []
    assert [body["seq_id"] for body in rude.bodies("asample")] == [0, 1]


def test_a_download_leaves_no_half_file(rude: RudeServer, make_service: Any, tmp_path: Any) -> None:
    """It breaks off: no file. It is elsewhere: no credential goes there. It is no HTTP: Unsupported."""
    rest = make_service(rude.url).create_rest_client()
    path, target = "tinker://run/weights/a", tmp_path / "deep" / "a.tar"
    archive = "training_runs/run/checkpoints/weights/a/archive"
    with RudeServer() as elsewhere:
        rude.script(archive, said({}, 302, location=f"{elsewhere.url}/file"))
        elsewhere.script("/file", Said(b"half", announced=100))
        with pytest.raises(CrucibleError):
            rest.download_checkpoint_archive(path, target).result(10)
        assert list(tmp_path.rglob("*a.tar*")) == []

        elsewhere.script("/file", Said(b"whole"))
        assert rest.download_checkpoint_archive(path, target).result(10).read_bytes() == b"whole"
        assert all("x-api-key" not in heard.headers for heard in elsewhere.heard)

        elsewhere.script("/file", said({"detail": "no such file"}, 404))
        with pytest.raises(NotFound):
            rest.download_checkpoint_archive(path, target).result(10)

    rude.script(archive, said({}, 302, location="/file"))
    rude.script("/file", Said(b"ours"))
    assert rest.download_checkpoint_archive(path, target).result(10).read_bytes() == b"ours"
    assert rude.heard[-1].headers["x-api-key"] == "tml-test"

    rude.script(archive, said({}, 302, location="file:///etc/hostname"))
    with pytest.raises(Unsupported):
        rest.download_checkpoint_archive(path, target).result(10)
    rude.script(archive, said({}, 302))
    with pytest.raises(MalformedAnswer):
        rest.get_checkpoint_archive_url_from_tinker_path(path).result(10)
