"""Failures of a real server on command, each with its own typed error."""

import threading
from typing import Any

import pytest

from backends.tinkex import RetryConfig, ServiceClient, TrainingClient
from backends.tinkex.types import AdamParams, Datum
from backends.tinkex_dev.server import DevServer
from crucible.errors import (
    AnswerLost,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    NotFound,
    OutOfCredit,
    RunCorrupted,
    RunGone,
)

ADAM = AdamParams(learning_rate=1e-2)


@pytest.fixture
def run(service: ServiceClient) -> TrainingClient:
    """A fresh run."""
    return service.create_lora_training_client("tiny-lm", rank=4, seed=0)


def step(client: TrainingClient, batch: list[Datum]) -> float:
    """One step, awaited."""
    loss = client.forward_backward(batch, "cross_entropy").result(30).metrics["loss:sum"]
    client.optim_step(ADAM).result(30)
    return loss


@pytest.mark.parametrize("route", ["forward_backward", "optim_step", "retrieve_future"])
@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param({"status": 429, "retry_after_s": 0.01}, id="429"),
        pytest.param({"status": 503}, id="503"),
        pytest.param({"status": 500}, id="500"),
        pytest.param({"reset": True}, id="reset"),
        pytest.param({"reset": True, "after": True}, id="reset after it took effect"),
        pytest.param({"status": 502, "after": True}, id="502 after it took effect"),
    ],
)
def test_passing_troubles_change_nothing(
    server: DevServer, service: ServiceClient, batch: list[Datum], route: str, trouble: dict[str, Any]
) -> None:
    """The losses are those of an undisturbed run, and no step was made twice."""
    calm, rough = (service.create_lora_training_client("tiny-lm", rank=4, seed=0) for _ in range(2))
    expected = [step(calm, batch) for _ in range(3)]
    server.fault(kind="route", route=route, count=2, skip=1, **trouble)

    assert [step(rough, batch) for _ in range(3)] == expected
    entries = server.log(model_id=rough.model_id)
    assert [entry["kind"] for entry in entries].count("optim_step") == 3


def test_a_limit_that_stays_is_a_capacity_error(server: DevServer, make_service: Any) -> None:
    """With what the server asked to wait."""
    service = make_service(server.url, retry=RetryConfig(give_up_after_s=0.05))
    server.fault(kind="route", route="create_model", status=429, retry_after_s=7, count=100)

    with pytest.raises(CapacityError) as caught:
        service.create_lora_training_client("tiny-lm")

    assert caught.value.retry_after_ms == 7000


def test_a_server_that_is_away(server: DevServer, make_service: Any) -> None:
    """Unavailable after every retry, saying whether anything was sent."""
    service = make_service(server.url, retry=RetryConfig(initial_delay_s=0.01, give_up_after_s=0.1))
    client = service.create_lora_training_client("tiny-lm", rank=1)
    server.stop()

    with pytest.raises(BackendUnavailable, match="optim_step") as caught:
        client.optim_step(ADAM).result(30)

    assert caught.value.retryable
    assert client.next_seq_id in (1, 2)


@pytest.mark.parametrize("mode", ["flag", "nan"])
def test_a_poisoned_run(
    server: DevServer, service: ServiceClient, run: TrainingClient, batch: list[Datum], mode: str
) -> None:
    """By the service's word or by value: one kind of error."""
    step(run, batch)
    server.fault(kind="corrupt", model_id=run.model_id, mode=mode)

    with pytest.raises(RunCorrupted) as caught:
        step(run, batch)

    assert caught.value.request_id or mode == "flag"
    training_run = service.create_rest_client().get_training_run(run.model_id).result(30)
    assert training_run.corrupted is (mode == "flag")


def test_a_run_flagged_in_silence(
    server: DevServer, service: ServiceClient, run: TrainingClient, batch: list[Datum]
) -> None:
    """Steps go on; only the flag tells."""
    server.fault(kind="corrupt", model_id=run.model_id, mode="silent")

    step(run, batch)

    assert service.create_rest_client().get_training_run(run.model_id).result(30).corrupted is True


def test_a_lost_model(server: DevServer, run: TrainingClient, batch: list[Datum]) -> None:
    """It is gone, for every kind of request."""
    server.fault(kind="lose_model", model_id=run.model_id)

    for call in (
        lambda: run.forward_backward(batch, "cross_entropy"),
        lambda: run.optim_step(ADAM),
        lambda: run.save_state("a"),
        run.get_info,
    ):
        with pytest.raises(RunGone):
            call().result(30)  # type: ignore[no-untyped-call]


def test_a_session_that_ended(server: DevServer, make_service: Any) -> None:
    """The heartbeat is told; who wanted to know is called, once; the session makes nothing new."""
    lost = threading.Event()
    seen: list[tuple[str, CrucibleError]] = []

    def on_lost(session_id: str, error: CrucibleError) -> None:
        seen.append((session_id, error))
        lost.set()

    service = make_service(server.url, heartbeat_s=0.05, on_session_lost=on_lost)
    client = service.create_lora_training_client("tiny-lm", rank=1)
    server.fault(kind="expire_session", session_id=client.session_id)

    assert lost.wait(10)
    assert [(session_id, type(error)) for session_id, error in seen] == [(service.session_id, RunGone)]
    assert isinstance(client.session_lost, RunGone)
    with pytest.raises(RunGone):
        service.create_lora_training_client("tiny-lm", rank=1)
    assert service.with_new_session().create_lora_training_client("tiny-lm", rank=1).model_id


def test_heartbeats_keep_a_session(make_server: Any, make_service: Any) -> None:
    """Longer than it would live without them; they go on in an attached client."""
    server = make_server(session_ttl_s=0.6)
    service = make_service(server.url, heartbeat_s=0.1)
    client = service.create_lora_training_client("tiny-lm", rank=1)
    heir = TrainingClient.attach(
        make_service(server.url, heartbeat_s=0.1),
        model_id=client.model_id,
        session_id=client.session_id,
        next_seq_id=1,
    )
    heir.optim_step(ADAM).result(30)
    service.close()

    beats = threading.Event()
    assert not beats.wait(2)

    assert heir.get_info().result(30).model_id == client.model_id


def test_out_of_credit(server: DevServer, run: TrainingClient, batch: list[Datum]) -> None:
    """Not the job's fault; when it is paid for, the run goes on."""
    server.fault(kind="out_of_credit", on=True)
    with pytest.raises(OutOfCredit):
        run.forward_backward(batch, "cross_entropy").result(30)

    server.fault(kind="out_of_credit", on=False)
    assert step(run, batch) > 0


def test_a_forgotten_answer_is_lost(server: DevServer, make_service: Any, batch: list[Datum]) -> None:
    """What the request did is not known to the client; the error names the request."""
    # a client that does not give up while the machine is busy
    patient = RetryConfig(initial_delay_s=0.01, max_delay_s=0.05, give_up_after_s=60)
    run = make_service(server.url, retry=patient).create_lora_training_client("tiny-lm", rank=4)
    server.fault(kind="route", route="retrieve_future", status=503, count=30)
    future = run.forward_backward(batch, "cross_entropy")
    pause = threading.Event()
    while not server.log(model_id=run.model_id, kind="forward_backward"):
        pause.wait(0.01)
    server.fault(kind="drop_futures", model_id=run.model_id)

    with pytest.raises(AnswerLost) as caught:
        future.result(30)

    assert caught.value.request_id == future.request_id


@pytest.mark.parametrize("how", ["truncated", "missing"])
def test_a_damaged_checkpoint(server: DevServer, service: ServiceClient, run: TrainingClient, how: str) -> None:
    """Loading it is a typed error, and the service client goes on."""
    path = run.save_state("a").result(30).path
    server.fault(kind="damage_checkpoint", path=path, how=how)

    with pytest.raises((NotFound, BackendUnavailable, CrucibleError)) as caught:
        service.create_training_client_from_state_with_optimizer(path)

    assert caught.value.backend == "tinkex"
    assert service.create_lora_training_client("tiny-lm", rank=1).model_id
