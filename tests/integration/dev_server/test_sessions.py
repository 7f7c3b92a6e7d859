"""Sessions end when idle; API keys are required."""

import pytest

from backends.tinkex_dev.server import DevServer


def test_a_session_ends_without_a_heartbeat(api, server):
    """After the time to live its models are unloaded and its heartbeat is 404; its checkpoints stay."""
    session = api.session()
    model = api.model(session)
    api.do("save_weights", model_id=model, seq_id=1, path="a")

    server.fault(kind="advance_clock", seconds=121)

    assert api.call("optim_step", model_id=model, seq_id=2, adam_params={}).status_code == 404
    assert api.call("session_heartbeat", session_id=session).status_code == 404
    assert api.http.get(f"sessions/{session}").json()["training_run_ids"] == [model]


@pytest.mark.parametrize("sign", ["heartbeat", "request"])
def test_a_session_that_is_heard_of_lives(api, server, sign: str):
    """A heartbeat keeps it open, as does any request of its models."""
    session = api.session()
    model = api.model(session)

    for number in range(3):
        server.fault(kind="advance_clock", seconds=80)
        if sign == "heartbeat":
            api.ok("session_heartbeat", session_id=session)
        else:
            api.result(api.optim_step(model, number + 1))

    assert api.ok("get_info", model_id=model)["model_id"] == model


def test_expiry_on_command(api, server):
    """One session ends, the other stays open."""
    ended, alive = api.session(), api.session()
    models = [api.model(session) for session in (ended, alive)]

    server.fault(kind="expire_session", session_id=ended)

    assert [api.call("get_info", model_id=model).status_code for model in models] == [404, 200]


def test_a_key_is_asked_for(server, connect):
    """All routes but health require a key that begins with tml-, and a refusal does not repeat it."""
    api = connect(server, key="sk-secret")

    refused = api.call("create_session", tags=[])

    assert api.http.get("healthz").status_code == 200
    assert refused.status_code == 401
    assert "sk-secret" not in refused.text


def test_one_key_can_be_required(tmp_path, connect):
    """With a required key no other is accepted, and no representation of the options contains it."""
    with DevServer(tmp_path, require_key="tml-only-this") as server:
        assert connect(server, key="tml-other").http.get("training_runs").status_code == 401
        assert connect(server, key="tml-only-this").http.get("training_runs").status_code == 200
        assert "tml-only-this" not in repr(server.options)


def test_a_finished_session_takes_its_models_and_snapshots_along(api):
    """finish ends the session: its models and the weights saved for its samplers are dropped."""
    session = api.session()
    model = api.model(session)
    sampler = api.do("save_weights_for_sampler", model_id=model, seq_id=1, sampling_session_seq_id=0)
    prompt = {"chunks": [{"type": "encoded_text", "tokens": [258, 65, 256, 259]}]}
    body = {"sampling_session_id": sampler["sampling_session_id"], "prompt": prompt, "sampling_params": {}}
    assert api.call("asample", seq_id=0, **body).status_code == 200

    assert api.call(f"sessions/{session}/finish", reason={"type": "success"}).status_code == 204

    assert api.call("get_info", model_id=model).status_code == 404
    assert api.call("asample", seq_id=1, **body).status_code == 404
