"""Calls of the newest API on servers that have them, and on servers that lack them: done or refused by name."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from scripted_server import Response, ScriptedServer, json_response

from backends.tinkex import RestClient, ServiceClient, TrainingClient
from backends.tinkex.types import DimuonOptimizerConfig, DimuonParams, ModelInput, OptimizerConfigBase
from backends.tinkex_dev.faults import FailOperation
from backends.tinkex_dev.server import DevServer
from crucible.errors import BackendUnavailable, InvalidRequest, MalformedAnswer, Unsupported

MakeService = Callable[..., ServiceClient]
EXTERNAL = "tinker://run/external_weights/x"
URLS = "training_runs/run/checkpoints/external_weights/x/external_weights_urls"


@pytest.fixture
def rest(scripted: ScriptedServer, make_service: MakeService) -> RestClient:
    """The REST client of the scripted server."""
    return make_service(scripted.url).create_rest_client()


def info(optimizer: str | None) -> Response:
    """A model with an optimizer family."""
    fields = {} if optimizer is None else {"optimizer_config": {"type": optimizer}}
    return json_response({"model_id": "run", "model_data": {}, **fields})


def test_another_family_of_optimizers_is_asked_for_and_confirmed(
    scripted: ScriptedServer, make_service: MakeService
) -> None:
    """Its steps have parameters of their own."""
    scripted.script("get_info", info("dimuon"))
    scripted.script("optim_step", json_response({"request_id": "step"}))
    scripted.futures["step"] = [json_response({"metrics": {}})]

    run = make_service(scripted.url).create_lora_training_client("m", optimizer_config=DimuonOptimizerConfig())
    run.optim_step(DimuonParams(learning_rate=0.1)).result(10)

    assert scripted.bodies("create_model")[-1]["optimizer_config"] == {"type": "dimuon", "version": 1}
    [step] = scripted.bodies("optim_step")
    assert step["optimizer_params"]["type"] == "dimuon"
    assert "adam_params" not in step


@pytest.mark.parametrize("answered", [None, "adamw"])
def test_a_family_that_a_server_ignores_is_refused(
    scripted: ScriptedServer, make_service: MakeService, answered: str | None
) -> None:
    """Instead of training with AdamW in silence; the model is freed."""
    scripted.script("get_info", info(answered))
    scripted.script("unload_model", json_response({"request_id": "unload"}))
    scripted.futures["unload"] = [json_response({})]

    with pytest.raises(Unsupported, match="the optimizer lion is not offered"):
        make_service(scripted.url).create_lora_training_client(
            "m", optimizer_config=OptimizerConfigBase(type="lion")
        )
    assert len(scripted.bodies("unload_model")) == 1


def test_parameters_of_no_optimizer_are_refused_at_once(client: TrainingClient) -> None:
    """By the name of their type."""
    with pytest.raises(InvalidRequest, match="dict"):
        client.optim_step({"learning_rate": 0.1})  # type: ignore[arg-type]


def test_external_weights_are_saved_and_downloaded(
    scripted: ScriptedServer, client: TrainingClient, rest: RestClient, tmp_path: Path
) -> None:
    """The key goes to the service itself only."""
    scripted.script("save_weights_external", json_response({"request_id": "export"}))
    scripted.futures["export"] = [json_response({"path": EXTERNAL, "size_bytes": 6})]
    scripted.script(
        URLS, json_response({"urls": {"a/b.bin": f"{scripted.url}/files/b", "c": f"{scripted.url}/files/c"}})
    )
    scripted.script("/files/b", Response(b"bbb", content_type="application/octet-stream"))
    scripted.script("/files/c", Response(b"ccc", content_type="application/octet-stream"))

    saved = client.save_weights_external("x", ttl_seconds=3600, age_encryption_recipients=["age1x"]).result(10)
    files = rest.download_external_weights(saved.path, tmp_path).result(10)

    assert saved.size_bytes == 6
    assert [file.relative_to(tmp_path).as_posix() for file in files] == ["a/b.bin", "c"]
    assert [file.read_bytes() for file in files] == [b"bbb", b"ccc"]
    [body] = scripted.bodies("save_weights_external")
    assert body == {
        "model_id": "run", "path": "x", "seq_id": 1, "ttl_seconds": 3600,
        "age_encryption_recipients": ["age1x"], "type": "save_weights_external",
    }  # fmt: skip


def test_a_folder_that_cannot_be_made_is_named(scripted: ScriptedServer, rest: RestClient, tmp_path: Path) -> None:
    """A file stands in its place."""
    scripted.script(URLS, json_response({"urls": {"a": f"{scripted.url}/a"}}))
    (tmp_path / "taken").write_text("x")

    with pytest.raises(InvalidRequest, match=r"target.*taken"):
        rest.download_external_weights(EXTERNAL, tmp_path / "taken" / "inner").result(10)


@pytest.mark.parametrize("name", ["../x", "/etc/x", "a/../../x", "..\\x", "", "a\n"])
def test_a_file_that_leads_outside_is_not_written(
    scripted: ScriptedServer, rest: RestClient, tmp_path: Path, name: str
) -> None:
    """Nor is any other."""
    scripted.script(URLS, json_response({"urls": {"a": f"{scripted.url}/a", name: f"{scripted.url}/x"}}))

    with pytest.raises(MalformedAnswer, match="leads outside"):
        rest.download_external_weights(EXTERNAL, tmp_path / "inner").result(10)
    assert not list(tmp_path.rglob("*"))


def test_only_external_weights_have_urls(rest: RestClient) -> None:
    """Said at once."""
    with pytest.raises(InvalidRequest, match="save_weights_external"):
        rest.get_external_weights_urls("tinker://run/weights/x")


def test_weights_are_copied(scripted: ScriptedServer, rest: RestClient) -> None:
    """The token for another's weights is a header, not part of the body."""
    scripted.script("copy_weights", json_response({"tinker_path": "tinker://copy/weights/x"}))

    copied = rest.copy_weights("tinker://run/weights/x", "project", ttl_seconds=60, weights_access_token="secret")

    assert copied.result(10) == "tinker://copy/weights/x"
    [request] = [one for one in scripted.received if one.route == "copy_weights"]
    assert request.headers["x-tinker-weights-access-token"] == "secret"
    assert json.loads(request.body) == {
        "source_path": "tinker://run/weights/x", "destination_project_id": "project", "ttl_seconds": 60
    }  # fmt: skip


def test_a_program_belongs_to_the_project_and_has_the_tags_of_its_environment(
    scripted: ScriptedServer, make_service: MakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its sessions, its copies and the list of its runs; without a project there is nowhere to copy to."""
    scripted.script("copy_weights", json_response({"tinker_path": "tinker://copy/weights/x"}))
    with pytest.raises(InvalidRequest, match=r"destination_project_id.*TINKER_PROJECT_ID"):
        make_service(scripted.url).create_rest_client().copy_weights("tinker://run/weights/x")
    monkeypatch.setenv("TINKER_PROJECT_ID", "mine")
    monkeypatch.setenv("TINKER_TAGS", "a,b")

    for service in (make_service(scripted.url), make_service(scripted.url, project_id="theirs")):
        service.create_lora_training_client("m")
        service.create_rest_client().copy_weights("tinker://run/weights/x").result(10)

    sessions = scripted.bodies("create_session")
    assert [(body["project_id"], body["tags"]) for body in sessions] == [
        ("mine", ["a", "b"]),
        ("theirs", ["a", "b"]),
    ]
    assert [body["destination_project_id"] for body in scripted.bodies("copy_weights")] == ["mine", "theirs"]


def test_a_run_from_a_state_has_the_optimizer_of_that_state(server: DevServer, make_service: MakeService) -> None:
    """Or the one that is asked for, if only the weights are loaded."""
    service = make_service(server.url)
    run = service.create_lora_training_client("tiny-lm", rank=4, optimizer_config=DimuonOptimizerConfig())
    path = run.save_state("a").result(30).path

    runs = [
        service.create_training_client_from_state_with_optimizer(path),
        service.create_training_client_from_state(path),
        service.create_training_client_from_state(path, optimizer_config=DimuonOptimizerConfig()),
    ]

    found = [run.get_info().result(30).optimizer_config for run in runs]
    assert [one.type for one in found if one] == ["dimuon", "adamw", "dimuon"]


def test_a_run_whose_state_is_not_loaded_is_freed(server: DevServer, make_service: MakeService) -> None:
    """It would hold a place at the service until its session ends."""
    service = make_service(server.url)
    path = service.create_lora_training_client("tiny-lm", rank=4).save_state("a").result(30).path
    server.fault(FailOperation(operation="load_weights"))

    with pytest.raises(BackendUnavailable):
        service.create_training_client_from_state(path)

    assert len(server.live_runs()) == 1


def test_a_server_that_scores_more_of_a_prompt_than_was_asked_for_has_ignored_it(
    scripted: ScriptedServer, make_service: MakeService
) -> None:
    """An older one drops the field, and would bill the whole prompt in silence."""
    scripted.script("create_sampling_session", json_response({"sampling_session_id": "sampling"}))
    scripted.script("asample", json_response({"request_id": "sample"}))
    scripted.futures["sample"] = [json_response({"sequences": [], "prompt_logprobs": [None, -1.0, -2.0]})]
    sampler = make_service(scripted.url).create_sampling_client(base_model="m")
    prompt = ModelInput.from_ints([1, 2, 3])

    assert sampler.compute_logprobs(prompt, 2).result(10) == [None, -1.0, -2.0]
    with pytest.raises(Unsupported, match="prompt_logprobs_last_n"):
        sampler.compute_logprobs(prompt, 1).result(10)


def test_a_session_is_finished_with_its_outcome(scripted: ScriptedServer, make_service: MakeService) -> None:
    """Once it exists."""
    service = make_service(scripted.url)
    service.finish_session().result(10)
    scripted.script("sessions/s/finish", json_response({}))
    service.create_lora_training_client("m")

    service.finish_session("errored", "out of data").result(10)

    [body] = scripted.bodies("sessions/s/finish")
    assert body == {"reason": {"type": "errored"}, "detail": "out of data"}


def test_ended_requests_and_usage_are_read(scripted: ScriptedServer, rest: RestClient) -> None:
    """As the service wrote them."""
    ended = {"completions": [{"state": "finished", "request_id": "one"}], "cursor": 4}
    scripted.script("retrieve_futures", json_response(ended))
    scripted.script("billing/usage/events", json_response({"data": [{"tokens": 3}], "sessions": {}}))

    found = rest.retrieve_futures("sampling", 2, timeout_s=0, retrieved_request_ids=["zero"]).result(10)
    usage = rest.get_billing_usage("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z").result(10)

    assert (found.completions[0].request_id, found.cursor) == ("one", 4)
    [body] = scripted.bodies("retrieve_futures")
    assert body["prev_cursor"] == 2
    assert body["retrieved_request_ids"] == ["zero"]
    assert usage.data == [{"tokens": 3}]


LACKING: dict[str, Callable[[RestClient], Any]] = {
    "copy_weights": lambda rest: rest.copy_weights("tinker://run/weights/x", "project"),
    "billing usage": lambda rest: rest.get_billing_usage("2026-11-01T00:00:00Z", "2026-11-02T00:00:00Z"),
    "external_weights_urls": lambda rest: rest.get_external_weights_urls(EXTERNAL),
    "retrieve_futures": lambda rest: rest.retrieve_futures("sampling"),
}


@pytest.mark.parametrize("name", LACKING)
def test_what_a_server_lacks_is_named(rest: RestClient, name: str) -> None:
    """An older server has none of these routes."""
    with pytest.raises(Unsupported, match=name):
        LACKING[name](rest).result(10)


@pytest.mark.parametrize("optimizer", [True, False])
def test_a_server_that_describes_no_checkpoints_restores_by_its_own_route(
    scripted: ScriptedServer, make_service: MakeService, optimizer: bool
) -> None:
    """As open-rl does; the path goes back as it came."""
    scripted.script("create_model_from_state", json_response({"request_id": "make"}))
    service = make_service(scripted.url)
    names = ["create_training_client_from_state", "create_training_client_from_state_with_optimizer"]

    run = getattr(service, names[optimizer])("/state/checkpoints/x")

    assert run.model_id == "run"
    [body] = scripted.bodies("create_model_from_state")
    assert body == {"state_path": "/state/checkpoints/x", "restore_optimizer": optimizer}


@pytest.mark.parametrize(
    ("routes", "sent"),
    [(["create_model_from_state"], True), (["create_model_from_state", "weights_info"], None), ([], None)],
    ids=["open-rl", "both", "neither"],
)
def test_a_save_holds_the_optimizer_where_that_takes_a_field(
    scripted: ScriptedServer, make_service: MakeService, routes: list[str], sent: bool | None
) -> None:
    """The field is open-rl's own, so a server that describes its checkpoints never sees it; asked once."""
    for route in routes:
        scripted.script(route, json_response({"error": "state_path is required"}, 400))
    scripted.script("save_weights", json_response({"request_id": "saved"}))
    scripted.futures["saved"] = [json_response({"path": "/state/x"})]
    run = make_service(scripted.url).create_lora_training_client("m")

    run.save_state("x").result(10)
    run.save_state("y").result(10)

    assert [body.get("include_optimizer") for body in scripted.bodies("save_weights")] == [sent, sent]
    assert [request.route for request in scripted.received].count("weights_info") == 1


def test_a_server_with_neither_route_lacks_descriptions(
    scripted: ScriptedServer, make_service: MakeService
) -> None:
    """The error names the route of the service."""
    with pytest.raises(Unsupported, match="weights_info is not offered"):
        make_service(scripted.url).create_training_client_from_state("/state/checkpoints/x")


@pytest.mark.parametrize("scheme", ["tinker", "twinkle", "xorl"])
def test_paths_of_other_schemes_are_deleted_as_they_came(
    scripted: ScriptedServer, rest: RestClient, scheme: str
) -> None:
    """Servers of other names keep the form."""
    scripted.script("training_runs/run/checkpoints/sampler_weights/w", json_response({}))

    rest.delete_checkpoint_from_tinker_path(f"{scheme}://run/sampler_weights/w").result(10)

    assert [request.route for request in scripted.received] == ["training_runs/run/checkpoints/sampler_weights/w"]
