"""Saved state is restored exactly, and damaged state is reported."""

import io
import json
import tarfile
from urllib.parse import quote

import httpx
import pytest

from backends.tinkex_dev.server import DevServer
from backends.tiny_lm import safetensors


def restored(api, session: str, number: int, path: str, *, optimizer: bool = True) -> str:
    """A new model of the same shape with a checkpoint loaded into it."""
    model = api.model(session, number)
    api.do("load_weights", model_id=model, seq_id=1, path=path, optimizer=optimizer)
    return model


def test_a_run_restored_with_its_optimizer_goes_on_bit_for_bit(api, server):
    """Saved at step 5 and resumed in a new model: losses and final weights equal the undisturbed run's."""
    session = api.session()
    whole = api.model(session)
    before = api.train(whole, 5)
    path = api.do("save_weights", model_id=whole, seq_id=11, path="five")["path"]
    after = api.train(whole, 5, first_seq=12)

    second = restored(api, session, 1, path)
    again = api.train(second, 5, first_seq=2)

    assert again == after
    assert server.weights_digest(second) == server.weights_digest(whole)
    assert before[-1] > after[0]


def test_a_restore_is_exact_with_clipped_gradients_too(api, server):
    """Clipping divides by a sum over all matrices: the restored run adds them up in the same order."""
    session = api.session()

    def steps(model: str, first: int) -> str:
        for seq_id in range(first, first + 6, 2):
            api.forward_backward(model, seq_id)
            how = {"learning_rate": 1e-2, "grad_clip_norm": 0.1, "weight_decay": 0.01}
            api.do("optim_step", model_id=model, seq_id=seq_id + 1, adam_params=how)
        return server.weights_digest(model)

    whole = api.model(session)
    steps(whole, 1)
    path = api.do("save_weights", model_id=whole, seq_id=7, path="three")["path"]
    after = steps(whole, 8)

    assert steps(restored(api, session, 1, path), 2) == after


def test_without_its_optimizer_the_second_step_differs(api):
    """Weights alone give the same first loss, and different ones after it."""
    session = api.session()
    whole = api.model(session)
    api.train(whole, 5)
    path = api.do("save_weights", model_id=whole, seq_id=11, path="five")["path"]
    after = api.train(whole, 3, first_seq=12)

    cold = api.train(restored(api, session, 1, path, optimizer=False), 3, first_seq=2)

    assert cold[0] == after[0]
    assert cold[1] != after[1]


def test_the_cold_optimizer_fault_answers_as_if_nothing_were_wrong(api, server):
    """The load succeeds, and only the second repeated step reveals the missing optimizer state."""
    session = api.session()
    whole = api.model(session)
    api.train(whole, 5)
    path = api.do("save_weights", model_id=whole, seq_id=11, path="five")["path"]
    after = api.train(whole, 3, first_seq=12)
    server.fault(kind="cold_optimizer", count=1)

    cold = api.train(restored(api, session, 1, path), 3, first_seq=2)
    warm = api.train(restored(api, session, 2, path), 3, first_seq=2)

    assert (cold[0], warm) == (after[0], after)
    assert cold[1] != after[1]


def test_a_model_can_be_made_by_loading(api):
    """load_weights with a session and a number creates a model with the checkpoint's settings."""
    session = api.session()
    whole = api.model(session, rank=6)
    api.train(whole, 2)
    path = api.do("save_weights", model_id=whole, seq_id=5, path="two")["path"]
    after = api.train(whole, 2, first_seq=6)

    made = api.do("load_weights", session_id=session, model_seq_id=9, path=path, optimizer=True)

    assert made["model_id"] == f"{session}:train:9"
    assert api.ok("get_info", model_id=made["model_id"])["lora_rank"] == 6
    assert api.train(made["model_id"], 2) == after


def test_checkpoints_survive_a_restart_and_live_models_do_not(tmp_path, connect):
    """After a restart: sessions, runs and checkpoints are listed, the live model is 404, the restore is exact."""
    with DevServer(tmp_path) as server:
        api = connect(server)
        session = api.session()
        model = api.model(session)
        api.train(model, 3)
        path = api.do("save_weights", model_id=model, seq_id=7, path="three")["path"]
        after = api.train(model, 2, first_seq=8)
        receipt = api.optim_step(model, 12)

    with DevServer(tmp_path) as server:
        api = connect(server)
        assert api.http.get("sessions").json()["sessions"] == [session]
        assert [r["training_run_id"] for r in api.http.get("training_runs").json()["training_runs"]] == [model]
        assert api.call("optim_step", model_id=model, seq_id=12, adam_params={}).status_code == 404
        assert api.call("session_heartbeat", session_id=session).status_code == 404
        assert api.call("retrieve_future", request_id=receipt["request_id"]).status_code == 410
        assert api.train(restored(api, api.session(), 0, path), 2, first_seq=2) == after


def test_a_name_is_taken_once(api):
    """A second save under a name is 409 at once, unless it sets overwrite."""
    model = api.model(api.session())
    api.do("save_weights", model_id=model, seq_id=1, path="a")

    refused = api.call("save_weights", model_id=model, seq_id=2, path="a")
    allowed = api.do("save_weights", model_id=model, seq_id=3, path="a", overwrite=True)

    assert refused.status_code == 409
    assert allowed["path"].endswith("/weights/a")


def test_loading_must_come_first(api):
    """load_weights after training is 400: a restore goes into a new model."""
    model = api.model(api.session())
    path = api.do("save_weights", model_id=model, seq_id=1, path="a")["path"]

    refused = api.call("load_weights", model_id=model, seq_id=2, path=path, optimizer=True)

    assert refused.status_code == 400
    assert "first training request" in refused.json()["detail"]


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_checkpoint_is_listed_and_does_not_load(api, server, how: str):
    """The listing shows it, the load fails by name, and the model can still load another."""
    session = api.session()
    model = api.model(session)
    bad = api.do("save_weights", model_id=model, seq_id=1, path="bad")["path"]
    good = api.do("save_weights", model_id=model, seq_id=2, path="good")["path"]
    server.fault(kind="damage_checkpoint", path=bad, how=how)

    target = api.model(session, 1)
    failed = api.result(api.ok("load_weights", model_id=target, seq_id=1, path=bad, optimizer=True))

    assert "weights/bad" in failed["error"]
    assert failed["category"] == "server"
    listed = api.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
    assert {c["checkpoint_id"] for c in listed} == {"weights/bad", "weights/good"}
    restored(api, session, 2, good)


def test_checkpoints_end_with_their_time_to_live(api, server):
    """A checkpoint with a TTL is listed with its expiry, and not found after it; the TTL can be removed."""
    model = api.model(api.session())
    api.do("save_weights", model_id=model, seq_id=1, path="short", ttl_seconds=3600)
    api.do("save_weights", model_id=model, seq_id=2, path="kept", ttl_seconds=3600)
    freed = api.http.put(f"training_runs/{model}/checkpoints/weights/kept/ttl", json={"ttl_seconds": None})
    assert freed.json()["expires_at"] is None

    server.fault(kind="advance_clock", seconds=3601)

    listed = api.http.get("checkpoints").json()["checkpoints"]
    assert [c["checkpoint_id"] for c in listed] == ["weights/kept"]


def test_the_archive_holds_the_adapter(api):
    """302 to a URL that streams a tar without a key; a modified URL is refused."""
    model = api.model(api.session())
    api.train(model, 1)
    api.do("save_weights", model_id=model, seq_id=3, path="a")

    found = api.http.get(f"training_runs/{model}/checkpoints/weights/a/archive")
    data = httpx.get(found.headers["location"], trust_env=False).content

    assert found.status_code == 302
    assert "GMT" in found.headers["expires"]
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        config = json.load(tar.extractfile("adapter_config.json"))
        weights = safetensors.unpack(tar.extractfile("adapter_model.safetensors").read())
    assert config["r"] == 4
    assert weights["base_model.model.unembed.lora_B.weight"].shape == (320, 4)
    forged = found.headers["location"].replace("until=", "until=9")
    assert httpx.get(forged, trust_env=False).status_code == 403


def test_publishing_deleting_and_paging(api):
    """Published checkpoints are marked, deleted ones are not found, and pages add up to the whole."""
    model = api.model(api.session())
    for number in range(5):
        api.do("save_weights", model_id=model, seq_id=number + 1, path=f"c{number}")
    one = f"training_runs/{quote(model, safe='')}/checkpoints/weights/c0"

    assert api.http.post(f"{one}/publish").status_code == 204
    listed = api.http.get(f"training_runs/{model}/checkpoints").json()["checkpoints"]
    assert [c["public"] for c in listed] == [False] * 4 + [True]
    assert api.http.delete(one).status_code == 204
    assert api.http.delete(one).status_code == 404
    pages = [api.http.get("checkpoints", params={"limit": 3, "offset": at}).json() for at in (0, 3)]

    assert [len(page["checkpoints"]) for page in pages] == [3, 1]
    assert pages[0]["cursor"] == {"offset": 0, "limit": 3, "total_count": 4}


def test_a_copy_in_a_project_is_listed_with_its_runs(api):
    """As the official client makes it; a copy is in a project or in a session."""
    session = api.session()
    path = api.do("save_weights", model_id=api.model(session), seq_id=1, path="a")["path"]

    copied = api.ok("copy_weights", source_path=path, destination_project_id="mine")["tinker_path"]

    every, mine = (
        api.http.get("training_runs", params=params).json()["training_runs"]
        for params in ({}, {"project_id": "mine"})
    )
    assert [run["last_checkpoint"]["tinker_path"] for run in mine] == [copied]
    assert len(every) == 2
    for given in ({}, {"session_id": session}, {"destination_project_id": "mine", "session_id": session}):
        assert api.call("copy_weights", source_path=path, **given).status_code == 422


def test_a_copy_is_a_checkpoint_of_a_run_of_its_own(api):
    """It has the weights of its source and outlives it."""
    session = api.session()
    model = api.model(session)
    path = api.do("save_weights", model_id=model, seq_id=1, path="a")["path"]

    copied = api.ok("copy_weights", source_path=path, session_id=session, model_seq_id=5)["tinker_path"]

    api.http.delete(f"training_runs/{model}/checkpoints/weights/a")
    loaded = api.do("load_weights", session_id=session, model_seq_id=6, path=copied, optimizer=True)
    assert loaded["path"] == copied
