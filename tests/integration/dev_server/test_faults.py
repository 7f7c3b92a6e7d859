"""Fault injection."""

import math

import httpx
import pytest

from backends.tinkex_dev.server import DevServer


def corrupted(api, model: str) -> bool:
    return api.http.get(f"training_runs/{model}").json()["corrupted"]


def test_a_flagged_run_refuses_to_train(api, server):
    """After the named step the run is listed as corrupted, and training requests fail as the server's fault."""
    model = api.model(api.session())
    server.fault(kind="corrupt", model_id=model, mode="flag", after_optim_steps=2)

    api.train(model, 2)
    failed = api.result(api.forward_backward(model, 5))

    assert corrupted(api, model)
    assert failed["category"] == "server"
    assert "corrupted" in failed["error"]


def test_a_nan_run_is_not_flagged(api, server):
    """Losses are NaN, and the run is not flagged."""
    model = api.model(api.session())
    server.fault(kind="corrupt", model_id=model, mode="nan", after_optim_steps=1)
    api.train(model, 1)

    result = api.result(api.forward_backward(model, 3))

    assert math.isnan(result["metrics"]["loss:sum"])
    assert not corrupted(api, model)


def test_a_silent_run_answers_from_scrambled_weights(api, server):
    """Flagged, but every request is answered, with other numbers."""
    model, other = (api.model(api.session()) for _ in range(2))
    server.fault(kind="corrupt", model_id=model, mode="silent")

    losses, sound = api.train(model, 2), api.train(other, 2)

    assert corrupted(api, model)
    assert losses[0] != sound[0]
    assert all(math.isfinite(loss) for loss in losses)


def test_a_fault_without_a_model_strikes_the_first_that_gets_there_once(api, server):
    """One run is corrupted, the next one is not."""
    server.fault(kind="corrupt", mode="flag", after_optim_steps=1)
    first, second = (api.model(api.session()) for _ in range(2))

    api.train(first, 1)
    api.train(second, 1)

    assert (corrupted(api, first), corrupted(api, second)) == (True, False)
    assert server.faults() == []


def test_a_lost_model_is_404_and_its_checkpoints_stay(api, server):
    """Queued requests fail, new ones are 404, checkpoints stay."""
    model = api.model(api.session())
    api.do("save_weights", model_id=model, seq_id=1, path="a")
    waiting = api.optim_step(model, 3)

    server.fault(kind="lose_model", model_id=model)

    assert "lost on command" in api.result(waiting)["error"]
    assert api.call("optim_step", model_id=model, seq_id=2, adam_params={}).status_code == 404
    assert api.call("get_info", model_id=model).status_code == 404
    assert len(api.http.get("checkpoints").json()["checkpoints"]) == 1


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_route_fails_as_often_as_told(api, server, status: int):
    """The first call passes, the next two are refused with Retry-After, later ones pass."""
    server.fault(kind="route", route="healthz", status=status, skip=1, count=2, retry_after_s=2)

    answers = [api.http.get("healthz") for _ in range(4)]

    assert [a.status_code for a in answers] == [200, status, status, 200]
    assert answers[1].headers["retry-after"] == "2"


def test_a_connection_is_cut(api, server):
    """No answer, and no effect."""
    model = api.model(api.session())
    server.fault(kind="route", route="optim_step", reset=True)

    with pytest.raises(httpx.TransportError):
        api.optim_step(model, 1)

    assert server.log(model_id=model, kind="optim_step") == []
    assert "metrics" in api.result(api.optim_step(model, 1))


@pytest.mark.parametrize("how", [{"reset": True}, {"status": 503}], ids=["cut", "503"])
def test_an_answer_is_lost_after_the_call_took_effect(api, server, how):
    """The step was made; the repeated request returns its result without a second step."""
    model = api.model(api.session())
    server.fault(kind="route", route="optim_step", after=True, **how)

    try:
        assert api.call("optim_step", model_id=model, seq_id=1, adam_params={}).status_code == 503
    except httpx.TransportError:
        assert how == {"reset": True}
    result = api.do("optim_step", model_id=model, seq_id=1, adam_params={})

    assert result["metrics"]["optimizer_step"] == 1
    assert [entry["step"] for entry in server.log(model_id=model, kind="optim_step")] == [1]


def test_out_of_credit_is_402_until_it_is_not(api, server):
    """Billable calls are refused; listings are not."""
    model = api.model(api.session())
    server.fault(kind="out_of_credit")

    refused = api.call("optim_step", model_id=model, seq_id=1, adam_params={})
    assert refused.status_code == 402
    assert api.http.get("training_runs").status_code == 200
    server.fault(kind="out_of_credit", on=False)

    assert "metrics" in api.result(api.optim_step(model, 1))


@pytest.mark.parametrize("state", ["paused_capacity", "paused_rate_limit"])
def test_a_paused_queue_says_why_and_goes_on(tmp_path, connect, state: str):
    """Accepted operations wait, and pollers get the state and the reason; afterwards they run."""
    with DevServer(tmp_path, hold_s=0.05) as server:
        api = connect(server)
        model = api.model(api.session())
        server.fault(kind="pause", state=state, reason="no room")
        receipt = api.optim_step(model, 1)

        waiting = api.call("retrieve_future", request_id=receipt["request_id"])
        server.fault(kind="pause", state="active")

        assert waiting.status_code == 408
        assert (waiting.json()["queue_state"], waiting.json()["queue_state_reason"]) == (state, "no room")
        assert "metrics" in api.result(receipt)


def test_forgotten_answers_are_410(api, server):
    """The promise is dropped, its effect stays."""
    model = api.model(api.session())
    receipt = api.optim_step(model, 1)
    api.result(receipt)

    server.fault(kind="drop_futures", model_id=model)

    assert api.call("retrieve_future", request_id=receipt["request_id"]).status_code == 410
    assert api.call("retrieve_future", request_id="nonsense").status_code == 404
    assert len(server.log(model_id=model, kind="optim_step")) == 1


def test_more_live_models_than_allowed_are_429(tmp_path, connect):
    """One more is refused with Retry-After, and accepted once there is room."""
    with DevServer(tmp_path, max_runs=1) as server:
        api = connect(server)
        session = api.session()
        first = api.model(session)
        body = {"session_id": session, "base_model": "tiny-lm", "lora_config": {"rank": 2}}

        refused = api.call("create_model", model_seq_id=1, **body)
        api.do("unload_model", model_id=first)

        assert refused.status_code == 429
        assert refused.headers["retry-after"] == "1"
        assert api.do("create_model", model_seq_id=1, **body)["model_id"] == f"{session}:train:1"


def test_a_fault_that_makes_no_sense_is_refused(server):
    """422 with the field; no fault is scheduled."""
    answer = httpx.post(f"{server.url}/dev/faults", json={"kind": "route", "status": 200}, trust_env=False)

    assert answer.status_code == 422
    assert answer.json()["detail"][0]["loc"][-1] == "status"
    assert server.faults() == []
