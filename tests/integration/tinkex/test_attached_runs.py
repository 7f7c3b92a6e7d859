"""Runs across clients: takeover, replay, and what a server does with repeats and unused gradients."""

from typing import Any

import pytest
from tinkex_runs import ADAM, new_run, train

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.types import Datum
from backends.tinkex_dev.server import DevServer


def test_another_client_takes_a_run_over(server: DevServer, make_service: Any, batch: list[Datum]) -> None:
    """A repeat is answered from the record; then the run goes on, no step lost and none doubled."""
    first = make_service(server.url)
    client = new_run(first)
    assert client.probe_replay().result(30) is True
    train(client, batch, 2)
    sent = client.forward_backward(batch, "cross_entropy", seq_id=client.next_seq_id).result(30)
    step = client.optim_step(ADAM).result(30)

    second = make_service(server.url)
    heir = TrainingClient.attach(
        second, model_id=client.model_id, session_id=client.session_id, next_seq_id=client.next_seq_id
    )
    again = heir.forward_backward(batch, "cross_entropy", seq_id=client.next_seq_id - 2).result(30)
    same_step = heir.optim_step(ADAM, seq_id=client.next_seq_id - 1).result(30)

    assert again.metrics == sent.metrics
    assert same_step == step
    assert heir.next_seq_id == client.next_seq_id
    train(heir, batch, 1)
    steps = [entry for entry in server.log(model_id=client.model_id) if entry["kind"] == "optim_step"]
    assert len(steps) == 4


def test_a_server_that_runs_repeats_again_is_known(make_server: Any, make_service: Any) -> None:
    """Found out by a forward pass, which changes nothing; asked once."""
    service = make_service(make_server(replay=False).url)
    client = new_run(service)

    assert client.probe_replay().result(30) is False
    number = client.next_seq_id
    assert client.probe_replay().result(30) is False
    assert client.next_seq_id == number
    assert service.features.replays_seq_id is False


@pytest.mark.parametrize(
    ("replay", "stepped", "used_up"),
    [
        pytest.param(False, False, True, id="unused gradients, no record"),
        pytest.param(False, True, False, id="no gradients left"),
        pytest.param(True, False, False, id="a server that keeps a record"),
    ],
)
def test_a_model_is_not_left_with_gradients_that_the_next_could_inherit(
    make_server: Any, make_service: Any, batch: list[Datum], replay: bool, stepped: bool, used_up: bool
) -> None:
    """SkyRL 0.3.0 gives the place of a freed model away with what it had accumulated: a step that moves nothing
    uses it up. Done only where it may matter."""
    server = make_server(replay=replay)
    service = make_service(server.url)
    client = new_run(service)
    client.probe_replay().result(30)
    client.forward_backward(batch, "cross_entropy").result(30)
    if stepped:
        client.optim_step(ADAM).result(30)

    client.unload().result(30)

    kinds = [entry["kind"] for entry in server.log(model_id=client.model_id)]
    assert kinds.count("optim_step") == stepped + used_up


def test_whoever_takes_a_run_over_cannot_know_what_it_holds(
    make_server: Any, make_service: Any, batch: list[Datum]
) -> None:
    """So a run that is attached to and freed is emptied too."""
    server = make_server(replay=False)
    service = make_service(server.url)
    first = new_run(service)
    first.probe_replay().result(30)
    first.forward_backward(batch, "cross_entropy").result(30)
    heir = TrainingClient.attach(
        service, model_id=first.model_id, session_id=first.session_id, next_seq_id=first.next_seq_id
    )

    heir.unload().result(30)

    assert [entry["kind"] for entry in server.log(model_id=first.model_id)].count("optim_step") == 1


def test_features_are_found_without_harm(server: DevServer, service: ServiceClient) -> None:
    """With a model's name the answer to repeats is found too; nothing stays behind."""
    features = service.server_features("tiny-lm").result(30)

    assert features.replays_seq_id is True
    assert (features.ttl, features.archive, features.publish, features.sessions) == (True, True, True, True)
    assert features.billing is True
    assert "tiny-lm" in features.models
    assert server.live_runs() == []
