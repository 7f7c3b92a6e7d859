"""A seq_id identifies one operation, which runs once and in order."""

import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st


def test_a_repeated_request_is_answered_from_the_record(api, server):
    """The same seq_id and body give the first request's id and result, without a second effect."""
    model = api.model(api.session())
    receipt = api.forward_backward(model, 1)
    stepped = api.optim_step(model, 2)
    result = api.result(receipt)
    api.result(stepped)
    digest = server.weights_digest(model)

    again = api.forward_backward(model, 1)
    stepped_again = api.optim_step(model, 2)

    assert (again["request_id"], stepped_again["request_id"]) == (
        receipt["request_id"],
        stepped["request_id"],
    )
    assert api.result(again) == result
    assert server.weights_digest(model) == digest
    assert [entry["seq_id"] for entry in server.log(model_id=model, kind="optim_step")] == [2]


def test_another_body_under_a_used_seq_id_is_a_conflict(api):
    """409, and the first request's result is still there."""
    model = api.model(api.session())
    receipt = api.optim_step(model, 1)
    api.result(receipt)

    refused = api.call("optim_step", model_id=model, seq_id=1, adam_params={"learning_rate": 0.5})

    assert refused.status_code == 409
    assert "seq_id 1" in refused.json()["detail"]
    assert "metrics" in api.result(receipt)


def test_without_replay_a_repeated_request_runs_again(api, server):
    """As on some real servers: one seq_id, two optimizer steps."""
    model = api.model(api.session())
    server.fault(kind="no_replay")

    for _ in range(2):
        api.result(api.optim_step(model, 1))

    assert [entry["step"] for entry in server.log(model_id=model, kind="optim_step")] == [1, 2]


def test_what_arrives_early_waits_for_what_is_missing(api, server):
    """Three before two: both run, in order, once the missing one is there."""
    model = api.model(api.session())
    first = api.forward_backward(model, 1)
    third = api.forward_backward(model, 3)
    assert "loss:sum" in api.result(first)["metrics"]

    second = api.optim_step(model, 2)
    api.result(third)

    assert "error" not in api.result(second)
    done = [(entry["kind"], entry["seq_id"]) for entry in server.log(model_id=model)][1:]
    assert done == [("forward_backward", 1), ("optim_step", 2), ("forward_backward", 3)]


def test_a_refused_request_does_not_hold_up_the_next(api):
    """A refused body does not use its seq_id, and the model stays usable."""
    model = api.model(api.session())
    broken = api.call(
        "forward_backward",
        model_id=model,
        seq_id=1,
        forward_backward_input={"data": [{"model_input": {"chunks": []}}], "loss_fn": "cross_entropy"},
    )

    after = api.result(api.optim_step(model, 2))

    assert broken.status_code == 422
    assert "metrics" in after
    assert "metrics" in api.result(api.forward_backward(model, 1))


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32), count=st.integers(2, 10))
def test_any_order_of_arrival_runs_in_order_of_seq_id(api, server, seed: int, count: int):
    """In any order of arrival, with any repetitions, each request runs once and in order."""
    model = api.model(api.session())
    arrivals = [n for n in range(1, count + 1) for _ in range(1 + n % 2)]
    random.Random(seed).shuffle(arrivals)

    receipts = [api.optim_step(model, n) for n in arrivals]
    for receipt in receipts:
        assert "error" not in api.result(receipt)

    assert [e["seq_id"] for e in server.log(model_id=model, kind="optim_step")] == list(range(1, count + 1))


def test_a_new_model_is_made_once_by_a_repeated_request(api):
    """create_model with the same session and number gives the same model; with another body, a conflict."""
    session = api.session()
    body = {"session_id": session, "model_seq_id": 3, "base_model": "tiny-lm", "lora_config": {"rank": 2}}

    first, again = api.ok("create_model", **body), api.ok("create_model", **body)

    assert first == again
    assert api.result(first)["model_id"] == f"{session}:train:3"
    assert api.call("create_model", **body | {"base_model": "llama-3.2-1b"}).status_code == 409


def test_an_idempotency_key_makes_a_resend_harmless(api):
    """The same key and body give the same session; the key with another body is a conflict."""
    headers = {"X-Idempotency-Key": "k1"}
    body = {"tags": [], "user_metadata": {"a": "b"}, "sdk_version": "0"}

    first = api.http.post("create_session", json=body, headers=headers)
    again = api.http.post("create_session", json=body, headers=headers)
    other = api.http.post("create_session", json=body | {"tags": ["x"]}, headers=headers)

    assert first.json() == again.json()
    assert other.status_code == 409


@pytest.mark.parametrize(
    ("status", "expected"), [(408, (408, None)), (200, (200, "try_again"))], ids=["as 408", "as 200"]
)
def test_an_unfinished_promise_is_answered_with_try_again(tmp_path, connect, status: int, expected):
    """After ``hold_s`` the answer is to try again, in either form that real servers use."""
    from backends.tinkex_dev.server import DevServer

    with DevServer(tmp_path, hold_s=0.05, try_again_status=status) as server:
        api = connect(server)
        model = api.model(api.session())
        waiting = api.optim_step(model, 2)

        answer = api.call("retrieve_future", request_id=waiting["request_id"])

        assert (answer.status_code, answer.json().get("type")) == expected
        assert answer.json()["queue_state"] == "active"
