"""A whole round of training on a server as others write them: JSON only, few routes, paths of its own form."""

from collections.abc import Callable

import numpy as np
import pytest
from scripted_server import Received, Response, ScriptedServer, json_response
from tinkex_runs import ADAM, new_run, train

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.types import Datum, ModelInput, SamplingParams
from backends.tinkex_dev.server import DevServer
from crucible import InvalidRequest, Unsupported

MakeServer = Callable[..., DevServer]
MakeService = Callable[..., ServiceClient]
FOREIGN = {
    "protobuf": False,
    "protobuf_refusal": 500,
    "opaque_paths": True,
    "short_prompt_logprobs": True,
    "missing_routes": frozenset({"forward", "training_runs", "checkpoints", "sessions", "client"}),
}
PROMPT = ModelInput.from_ints(list(b"the cat sat"))


@pytest.fixture
def foreign(make_server: MakeServer) -> DevServer:
    """A server that reads JSON only, fails on protobuf, and has neither ``/forward`` nor listings."""
    return make_server(**FOREIGN)


@pytest.fixture
def home(tmp_path_factory: pytest.TempPathFactory) -> DevServer:
    """The development server with everything."""
    return DevServer(tmp_path_factory.mktemp("home"))


def losses_at_home(home: DevServer, batch: list[Datum], steps: int) -> list[float]:
    """The losses of the same training on a server with everything."""
    with home, ServiceClient("tml-test", home.url) as service:
        return train(new_run(service), batch, steps)


def test_a_round_of_training_works_on_a_foreign_server(
    foreign: DevServer, home: DevServer, make_service: MakeService, batch: list[Datum]
) -> None:
    """Probe, train, save, restore, sample, score: with the numbers of a server that has everything."""
    service = make_service(foreign.url)
    client = new_run(service)

    assert client.probe_replay().result(30) is None
    losses = train(client, batch, 3)
    saved = client.save_state("middle").result(30).path
    losses += train(client, batch, 3)
    assert losses == losses_at_home(home, batch, 6)
    assert saved.startswith("/state/checkpoints/st-")
    restored = service.create_training_client_from_state_with_optimizer(saved)
    assert train(restored, batch, 3) == losses[3:]
    weights = client.save_weights_for_sampler("trained").result(30).path
    assert weights is not None
    sampler = service.create_sampling_client(weights)
    assert sampler.sample(PROMPT, 1, SamplingParams(max_tokens=3, seed=1)).result(30).sequences[0].tokens
    assert len(sampler.compute_logprobs(PROMPT).result(30)) == PROMPT.length


def test_a_missing_forward_route_says_nothing_about_the_encoding(
    foreign: DevServer, make_service: MakeService, batch: list[Datum]
) -> None:
    """``forward`` is refused by name each time, before training and after it, and training goes on."""
    service = make_service(foreign.url)
    client = new_run(service)

    with pytest.raises(Unsupported, match="forward is not offered"):
        client.forward(batch, "cross_entropy").result(30)
    assert service.features.request_encoding is None
    train(client, batch, 1)
    assert service.features.request_encoding == "json"
    with pytest.raises(Unsupported, match="forward is not offered"):
        client.forward(batch, "cross_entropy").result(30)
    train(client, batch, 1)


def test_a_wrongly_learned_encoding_is_forgotten(
    make_server: MakeServer, make_service: MakeService, batch: list[Datum]
) -> None:
    """The next real call contradicts it, and is answered all the same."""
    service = make_service(make_server(protobuf=False).url)
    client = new_run(service)
    service.connection.memory.learn(request_encoding="protobuf")

    losses = train(client, batch, 2)

    assert losses[1] < losses[0]
    assert service.features.request_encoding == "json"


def test_a_server_that_refuses_json_is_sent_protobuf_whatever_was_learned(
    scripted: ScriptedServer, client: TrainingClient, batch: list[Datum]
) -> None:
    """Its refusal is not the caller's error."""
    refused = json_response({"detail": "expected application/x-protobuf"}, 415)

    def forward_backward(received: Received) -> Response:
        is_json = received.headers["content-type"] == "application/json"
        return refused if is_json else json_response({"request_id": "pass"})

    scripted.script("forward_backward", forward_backward)
    scripted.futures["pass"] = [json_response({"loss_fn_outputs": [], "metrics": {}})]
    client.service.connection.memory.learn(request_encoding="json")

    client.forward_backward(batch, "cross_entropy").result(30)

    assert client.service.features.request_encoding == "protobuf"


@pytest.mark.parametrize("refusal", [400, 404, 422])
@pytest.mark.parametrize("call", ["delete", "publish", "unpublish", "ttl", "archive"])
def test_a_save_named_without_its_kind_is_found_with_it(
    scripted: ScriptedServer, make_service: MakeService, call: str, refusal: int
) -> None:
    """SkyRL answers ``tinker://RUN/NAME`` to a save, and main looks it up as ``sampler_weights/NAME`` only."""
    folder = "training_runs/run/checkpoints"
    suffix = {"delete": "", "publish": "/publish", "unpublish": "/publish", "ttl": "/ttl", "archive": "/archive"}
    scripted.script(f"{folder}/w{suffix[call]}", json_response({"detail": "Invalid checkpoint_id"}, refusal))
    scripted.script(f"{folder}/sampler_weights/w{suffix[call]}", json_response({"url": "http://x/w.tar"}))
    rest = make_service(scripted.url).create_rest_client()
    calls = {
        "delete": rest.delete_checkpoint_from_tinker_path,
        "publish": rest.publish_checkpoint_from_tinker_path,
        "unpublish": rest.unpublish_checkpoint_from_tinker_path,
        "ttl": lambda path: rest.set_checkpoint_ttl_from_tinker_path(path, None),
        "archive": rest.get_checkpoint_archive_url_from_tinker_path,
    }

    calls[call]("tinker://run/w").result(30)

    assert [request.route for request in scripted.received][-2:] == [
        f"{folder}/w{suffix[call]}", f"{folder}/sampler_weights/w{suffix[call]}"
    ]  # fmt: skip


def test_log_probabilities_of_a_prompt_have_one_entry_per_token_everywhere(
    foreign: DevServer, home: DevServer, make_service: MakeService
) -> None:
    """With None first, as the service answers; also those of the most likely tokens."""
    sampler = make_service(foreign.url).create_sampling_client(base_model="tiny-lm")
    with home, ServiceClient("tml-test", home.url) as service:
        complete = service.create_sampling_client(base_model="tiny-lm")
        scores, tops = complete.compute_logprobs(PROMPT).result(30), complete.compute_topk_logprobs(PROMPT, 2)
        assert sampler.compute_logprobs(PROMPT).result(30) == scores
        assert sampler.compute_topk_logprobs(PROMPT, 2).result(30) == tops.result(30)

    assert scores[0] is None
    assert len(scores) == PROMPT.length
    assert None not in scores[1:]


def test_rest_calls_that_need_a_run_refuse_an_address_that_names_none(
    foreign: DevServer, make_service: MakeService
) -> None:
    """By the field's name, and before sending."""
    rest = make_service(foreign.url).create_rest_client()

    with pytest.raises(InvalidRequest, match=r"tinker_path: '/state/checkpoints/st-1' is not allowed"):
        rest.delete_checkpoint_from_tinker_path("/state/checkpoints/st-1")


def test_weights_and_base_model_may_be_given_together(server: DevServer, service: ServiceClient) -> None:
    """As the official client sends them; a base model that is not theirs is refused."""
    saved = new_run(service).save_weights_for_sampler("w").result(30).path
    assert saved is not None

    sampler = service.create_sampling_client(saved, base_model="tiny-lm")
    assert sampler.sample(PROMPT, 1, SamplingParams(max_tokens=1)).result(30).sequences
    with pytest.raises(InvalidRequest, match="was made from tiny-lm, not no-such-model"):
        service.create_sampling_client(saved, base_model="no-such-model")


def test_the_batch_of_a_custom_loss_is_that_of_the_call(
    make_service: MakeService, server: DevServer, batch: list[Datum]
) -> None:
    """The loss function receives it too."""
    client: TrainingClient = new_run(make_service(server.url))
    targets = np.asarray(list(b"abcd"))
    given = Datum(model_input=ModelInput.from_ints(list(b"abcd")), loss_fn_inputs={"target_tokens": targets})
    seen: list[list[int]] = []

    def loss(data: object, logprobs: list[np.ndarray]) -> tuple[float, list[np.ndarray], dict[str, float]]:
        seen.append(data[0].loss_fn_inputs["target_tokens"].tolist())  # type: ignore[index]
        return float(-logprobs[0].sum()), [-np.ones_like(logprobs[0])], {}

    future = client.forward_backward_custom([given], loss, arrays="numpy")
    targets[:] = 0
    future.result(30)
    client.optim_step(ADAM).result(30)

    assert seen == [list(b"abcd")]
