"""Temporary failures: requests are repeated unchanged, and waits for results are reported and bounded."""

from itertools import pairwise
from typing import Any

import pytest
from scripted_server import Response, ScriptedServer, json_response

from backends.tinkex import QueueReport, TrainingClient
from backends.tinkex.types import AdamParams, QueueState
from crucible.errors import AnswerLost, CrucibleError, RequestTimeout

STEP = json_response({"request_id": "step"})


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(json_response({"type": "try_again", "queue_state": "active"}), id="try again"),
        pytest.param(json_response({"queue_state": "active"}, 408), id="408"),
        pytest.param(Response(b"not even JSON", 408), id="bare 408"),
        pytest.param(json_response({"status": "complete_metadata", "size": 5}), id="metadata only"),
        pytest.param(json_response({"detail": "later"}, 503), id="503"),
        pytest.param(json_response({"detail": "slow down"}, 429, retry_after="0.01"), id="429"),
        pytest.param(Response(b"bad gateway", 400), id="a bare 400 from a proxy"),
        pytest.param(json_response({"detail": "Internal Server Error"}, 500), id="500 once"),
        pytest.param(None, id="a closed connection"),
        pytest.param(b"garbage\r\n\r\n", id="no HTTP"),
        pytest.param(Response(b'{"metrics"', announced=500), id="cut short"),
    ],
)
def test_passing_troubles_of_a_result_are_waited_out(
    scripted: ScriptedServer, client: TrainingClient, trouble: Any
) -> None:
    """And the request itself is not sent again."""
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [trouble, trouble, json_response({"metrics": {"a": 1.0}})]

    assert client.optim_step(AdamParams()).result(10).metrics == {"a": 1.0}
    assert len(scripted.bodies("optim_step")) == 1


@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(json_response({"detail": "later"}, 503), id="503"),
        pytest.param(json_response({"detail": "slow down"}, 429, retry_after="0.01"), id="429"),
        pytest.param(json_response({"detail": "slow"}, 408), id="408"),
        pytest.param(None, id="a closed connection"),
        pytest.param(Response(b'{"request', announced=500), id="cut short"),
    ],
)
def test_a_repeat_is_the_same_request(scripted: ScriptedServer, client: TrainingClient, trouble: Any) -> None:
    """The same bytes, the same sequence number, the same idempotency key."""
    scripted.script("optim_step", trouble, trouble, STEP)
    scripted.futures["step"] = [json_response({})]

    client.optim_step(AdamParams()).result(10)

    sent = [request for request in scripted.received if request.route == "optim_step"]
    assert len(sent) == 3
    assert len({request.body for request in sent}) == 1
    assert len({request.headers["x-idempotency-key"] for request in sent}) == 1


@pytest.mark.parametrize(
    ("trouble", "kind"),
    [
        pytest.param(None, AnswerLost, id="a closed connection"),
        pytest.param(json_response({}, 502), AnswerLost, id="502"),
        pytest.param(Response(b"{", announced=500), AnswerLost, id="cut short"),
        pytest.param(json_response({}, 503), None, id="503: it was not taken"),
    ],
)
def test_what_would_count_twice_is_not_repeated(
    scripted: ScriptedServer, client: TrainingClient, trouble: Any, kind: type[CrucibleError] | None
) -> None:
    """On a server that runs a repeat again, what may have arrived is lost, not sent twice."""
    client.service.connection.memory.learn(replays_seq_id=False)
    scripted.script("optim_step", trouble, STEP)
    scripted.futures["step"] = [json_response({})]

    if kind is None:
        client.optim_step(AdamParams()).result(10)
    else:
        with pytest.raises(kind):
            client.optim_step(AdamParams()).result(10)
    assert len(scripted.bodies("optim_step")) == (2 if kind is None else 1)


def test_waiting_is_reported_once_a_minute(scripted: ScriptedServer, make_service: Any) -> None:
    """The first pause at once, with its reason; then silence for a minute."""
    now = [0.0]
    reports: list[QueueReport] = []

    async def sleep(seconds: float) -> None:
        now[0] += max(seconds, 5.0)

    service = make_service(scripted.url, observer=reports.append, clock=lambda: now[0], sleep=sleep)
    client = service.create_lora_training_client("m")
    paused = json_response({"queue_state": "paused_capacity", "queue_state_reason": "no GPU is free"}, 408)
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [json_response({"queue_state": "active"}, 408), *([paused] * 30), json_response({})]

    client.optim_step(AdamParams()).result(20)

    assert [(report.state, report.reason, report.request_id) for report in reports] == [
        (QueueState.PAUSED_CAPACITY, "no GPU is free", "step")
    ] * len(reports)
    assert 2 <= len(reports) <= 4
    assert all(later.waited_s - sooner.waited_s >= 60 for sooner, later in pairwise(reports))


def test_no_progress_has_an_end(scripted: ScriptedServer, make_service: Any) -> None:
    """A request that is active for ever is given up; one that is paused is not."""
    now = [0.0]

    async def sleep(seconds: float) -> None:
        now[0] += max(seconds, 5.0)

    service = make_service(scripted.url, no_progress_s=60, clock=lambda: now[0], sleep=sleep)
    client = service.create_lora_training_client("m")
    scripted.script("optim_step", STEP)
    scripted.futures["step"] = [
        *([json_response({"queue_state": "paused_rate_limit"}, 408)] * 20),
        json_response({"queue_state": "active"}, 408),
    ]

    with pytest.raises(RequestTimeout, match="no progress") as caught:
        client.optim_step(AdamParams()).result(20)

    assert caught.value.request_id == "step"
    assert now[0] > 150
