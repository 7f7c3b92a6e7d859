"""Training over real HTTP: order, exactness, numbers, two phases, and taking a run over."""

import asyncio
import math
import os
import signal
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.errors import RequestNotSent, WrongLoop
from backends.tinkex.types import AdamParams, Datum
from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest, NameTaken, NotFound, RequestTimeout, RunGone

ADAM = AdamParams(learning_rate=1e-2)


def train(client: TrainingClient, batch: list[Datum], steps: int) -> list[float]:
    """Losses of pipelined steps: everything is sent before anything is awaited."""
    pending = []
    for _ in range(steps):
        pending.append(client.forward_backward(batch, "cross_entropy"))
        step = client.optim_step(ADAM)
    step.result(30)
    return [one.result(30).metrics["loss:sum"] for one in pending]


def client_of(server: DevServer) -> ServiceClient:
    """A client to be closed before its server is."""
    return ServiceClient("tml-test", server.url)


def new_run(service: ServiceClient) -> TrainingClient:
    """A run that starts the same every time."""
    return service.create_lora_training_client("tiny-lm", rank=4, seed=0)


@pytest.mark.parametrize("protobuf", [True, False], ids=["protobuf", "json"])
def test_both_encodings_train_alike(
    make_server: Any, make_service: Any, batch: list[Datum], protobuf: bool
) -> None:
    """The encoding is found out and remembered; the numbers are the same, bit for bit, and fall."""
    service = make_service(make_server(protobuf=protobuf).url)

    losses = train(new_run(service), batch, 8)

    assert service.features.request_encoding == ("protobuf" if protobuf else "json")
    assert service.features.answer_encoding == ("protobuf" if protobuf else "json")
    assert losses[-1] < losses[0]
    assert [round(loss, 6) for loss in losses] == [round(loss, 6) for loss in train(new_run(service), batch, 8)]


def test_encodings_agree_on_every_number(batch: list[Datum], tmp_path: Path) -> None:
    """Losses and log-probabilities over JSON equal those over protobuf."""
    found = []
    for protobuf in (True, False):
        with DevServer(tmp_path / str(protobuf), protobuf=protobuf) as server, client_of(server) as service:
            client = new_run(service)
            losses = train(client, batch, 3)
            output = client.forward(batch, "cross_entropy").result(30)
            found.append((losses, [record["logprobs"].tolist() for record in output.loss_fn_outputs]))

    assert found[0] == found[1]


def test_compressed_requests_train_alike(make_server: Any, make_service: Any, batch: list[Datum]) -> None:
    """Where the server asks for zstd, it gets it."""
    server = make_server(client_config={"proto_compress_fwdbwd": True})

    assert train(new_run(make_service(server.url)), batch, 2)


def test_requests_take_effect_in_the_order_of_the_calls(
    server: DevServer, service: ServiceClient, batch: list[Datum]
) -> None:
    """Numbers count from 1 without a gap, and each step was made once."""
    client = new_run(service)
    train(client, batch, 5)
    client.optim_step(ADAM).result(30)

    entries = server.log(model_id=client.model_id)

    assert [entry["seq_id"] for entry in entries if entry["seq_id"]] == list(range(1, 12))
    assert client.next_seq_id == 12


def test_a_large_batch_goes_in_chunks(
    make_server: Any, make_service: Any, batch: list[Datum], tmp_path: Any
) -> None:
    """Each chunk takes a number; the joined result and the gradient are those of one request."""
    with DevServer(tmp_path / "whole") as server:
        client = new_run(make_service(server.url))
        expected = [client.forward_backward(batch, "cross_entropy").result(30), client.optim_step(ADAM).result(30)]
    small = make_server(client_config={"fwdbwd_max_chunk_len": 3})
    client = new_run(make_service(small.url))

    future = client.forward_backward(batch, "cross_entropy")
    output, step = future.result(30), client.optim_step(ADAM).result(30)

    assert client.chunk_count(batch) == len(future.request_ids) == 2
    assert client.next_seq_id == 4
    assert len(output.loss_fn_outputs) == len(batch)
    assert output.metrics["loss:sum"] == pytest.approx(expected[0].metrics["loss:sum"], rel=1e-12)
    assert step.metrics["grad_norm"] == pytest.approx(expected[1].metrics["grad_norm"], rel=1e-9)


def test_a_restore_is_exact(service: ServiceClient, batch: list[Datum]) -> None:
    """With the optimizer, the losses go on as in the run that was left alone; without it, they do not."""
    client = new_run(service)
    train(client, batch, 3)
    path = client.save_state("000003").result(30).path
    expected = train(client, batch, 3)

    restored = service.create_training_client_from_state_with_optimizer(path)
    cold = service.create_training_client_from_state(path)

    assert train(restored, batch, 3) == expected
    assert train(cold, batch, 3)[-1] != expected[-1]


def test_a_load_into_a_new_model_goes_by_either_name(service: ServiceClient, batch: list[Datum]) -> None:
    """``load_weights_with_optimizer`` is ``load_state_with_optimizer``."""
    client = new_run(service)
    train(client, batch, 2)
    path = client.save_state("a").result(30).path
    expected = train(client, batch, 1)

    other = new_run(service)
    other.load_weights_with_optimizer(path).result(30)

    assert TrainingClient.load_weights_with_optimizer is TrainingClient.load_state_with_optimizer
    assert train(other, batch, 1) == expected


def test_a_name_is_taken_once(service: ServiceClient) -> None:
    """A second save under one name is its own error; overwriting must be asked for."""
    client = new_run(service)
    first = client.save_state("a").result(30)

    with pytest.raises(NameTaken):
        client.save_state("a").result(30)

    assert client.save_state("a", overwrite=True).result(30).path == first.path


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
    assert features.billing is False
    assert "tiny-lm" in features.models
    assert features.optimizer_restore is None
    assert server.live_runs() == []


def test_a_bad_batch_costs_nothing(service: ServiceClient, batch: list[Datum]) -> None:
    """It is refused at the call, takes no number, and the client goes on."""
    client = new_run(service)
    client.get_info().result(30)
    bad = Datum(model_input=batch[0].model_input, loss_fn_inputs={"target_tokens": [1], "weights": [1.0]})
    targets = [320] * (batch[0].model_input.length or 0)
    outside = Datum(model_input=batch[0].model_input, loss_fn_inputs={"target_tokens": targets})

    for wrong, field in (([], "data"), ([bad], "target_tokens"), ([outside], "target_tokens")):
        with pytest.raises(InvalidRequest, match=field):
            client.forward_backward(wrong, "cross_entropy")
    with pytest.raises(InvalidRequest, match="loss_fn"):
        client.forward_backward(batch, "")

    assert client.next_seq_id == 1
    assert train(client, batch, 1)


def test_what_the_server_refuses_costs_no_number(service: ServiceClient, batch: list[Datum]) -> None:
    """Those behind it are not sent; the next call takes the number that the server expects."""
    client = new_run(service)
    refused = client.forward_backward(batch, "no_such_loss")
    behind = client.optim_step(ADAM)

    with pytest.raises(InvalidRequest):
        refused.result(30)
    with pytest.raises(RequestNotSent):
        behind.result(30)
    assert train(client, batch, 1)


def test_giving_up_waiting_cancels_nothing(server: DevServer, service: ServiceClient, batch: list[Datum]) -> None:
    """A timeout is the caller's; the result can be waited for again."""
    client = new_run(service)
    server.fault(kind="latency", work_ms=400)
    future = client.forward_backward(batch, "cross_entropy")

    with pytest.raises(RequestTimeout):
        future.result(0.01)
    with pytest.raises(RequestTimeout):
        future.exception()

    assert future.result(30).metrics["loss:sum"] > 0
    assert future.exception() is None
    assert future.done()


def test_a_loss_of_ones_own(service: ServiceClient, batch: list[Datum]) -> None:
    """The gradient of a custom loss that is the cross entropy is that of the cross entropy."""
    plain, custom = new_run(service), new_run(service)

    def minus_sum(data: Any, logprobs: Any) -> tuple[float, list[Any], dict[str, float]]:
        return -sum(float(one.sum()) for one in logprobs), [-np.ones_like(one) for one in logprobs], {"mine": 1.0}

    expected = plain.forward_backward(batch, "cross_entropy").result(30)
    future = custom.forward_backward_custom(batch, minus_sum, arrays="numpy")
    step = custom.optim_step(ADAM)

    assert future.result(30).metrics["loss"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
    assert future.result(30).metrics["mine"] == 1.0
    assert step.result(30).metrics["grad_norm"] == pytest.approx(
        plain.optim_step(ADAM).result(30).metrics["grad_norm"], rel=1e-9
    )


@pytest.mark.parametrize(
    ("loss", "field"),
    [
        pytest.param(lambda data, logprobs: 1.0, "loss_fn", id="no tuple"),
        pytest.param(lambda data, logprobs: (1.0, [], {}), "loss_fn", id="too few gradients"),
        pytest.param(
            lambda data, logprobs: (1.0, [np.ones(1) for _ in data], {}),
            "gradients",
            id="gradients of another shape",
        ),
        pytest.param(
            lambda data, logprobs: (1.0, [np.full_like(one, np.nan) for one in logprobs], {}), "gradients", id="NaN"
        ),
    ],
)
def test_a_wrong_loss_of_ones_own_is_refused(
    service: ServiceClient, batch: list[Datum], loss: Any, field: str
) -> None:
    """The error names what was wrong, and the client stays usable."""
    client = new_run(service)

    with pytest.raises(InvalidRequest, match=field):
        client.forward_backward_custom(batch, loss, arrays="numpy").result(30)

    assert train(client, batch, 1)


def test_two_phases_on_one_loop(server: DevServer, batch: list[Datum]) -> None:
    """``submit`` returns when the server has the request; nothing runs on another thread."""

    async def scenario() -> list[float]:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            client = await service.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
            pending = []
            for _ in range(3):
                future = await client.submit_forward_backward(batch, "cross_entropy")
                assert future.request_id is not None
                await client.submit_optim_step(ADAM)
                pending.append(future)
            saved = await (await client.submit_save_state("a"))
            assert saved.path.endswith("/weights/a")
            assert not any(thread.name == "tinkex" for thread in threading.enumerate() if thread not in before)
            return [(await one).metrics["loss:sum"] for one in pending]

    before = set(threading.enumerate())
    losses = asyncio.run(scenario())
    assert losses[0] > losses[-1]
    assert all(map(math.isfinite, losses))


def test_many_runs_share_one_loop(server: DevServer, batch: list[Datum]) -> None:
    """Sessions are their own, connections are shared, and the runs do not disturb each other."""

    async def one(service: ServiceClient) -> float:
        mine = service.with_new_session()
        client = await mine.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
        for _ in range(2):
            future = await client.submit_forward_backward(batch, "cross_entropy")
            await client.submit_optim_step(ADAM)
        loss = (await future).metrics["loss:sum"]
        await mine.end_sessions()
        return loss

    async def scenario() -> list[float]:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            return await asyncio.gather(*(one(service) for _ in range(20)))

    assert len(set(asyncio.run(scenario()))) == 1


def test_blocking_futures_can_be_awaited(service: ServiceClient, batch: list[Datum]) -> None:
    """The same client serves blocking code and a loop of the caller's."""
    client = new_run(service)

    async def scenario() -> float:
        future = client.forward_backward(batch, "cross_entropy")
        await client.submit_optim_step(ADAM)
        assert (await client) is client
        assert (await future.result_async(30)).metrics == (await future).metrics
        other = await service.create_lora_training_client_async("tiny-lm", rank=4, seed=0)
        return (await other.forward(batch, "cross_entropy")).metrics["loss:sum"]

    assert asyncio.run(scenario()) > 0
    assert client.result() is client


def test_blocking_on_the_callers_loop_is_refused(server: DevServer) -> None:
    """Instead of waiting for itself for ever."""

    async def scenario() -> None:
        async with ServiceClient.on_caller_loop("tml-test", server.url) as service:
            with pytest.raises(WrongLoop):
                service.create_lora_training_client("tiny-lm")
            future = service.get_server_capabilities()
            with pytest.raises(WrongLoop):
                future.result()
            await future
            assert future.result().model_names

    asyncio.run(scenario())
    with pytest.raises(WrongLoop):
        ServiceClient.on_caller_loop("tml-test", server.url).get_server_capabilities()


def test_a_forked_child_has_its_own_loop_and_session(service: ServiceClient, batch: list[Datum]) -> None:
    """A client that was used before a fork works in the child, in a session of its own."""
    new_run(service)
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        signal.alarm(30)
        try:
            client = new_run(service)
            loss = client.forward(batch, "cross_entropy").result(20).metrics["loss:sum"]
            os.write(writer, f"{service.session_id} {loss}".encode())
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        session, _, loss = pipe.read().partition(" ")
    os.waitpid(child, 0)

    assert float(loss) > 0
    assert session != service.session_id


def test_the_model_can_be_asked_and_freed(service: ServiceClient, batch: list[Datum]) -> None:
    """Its info names the tokenizer; once freed, it is gone."""
    client = new_run(service)

    info = client.get_info().result(30)
    assert (info.base_model, info.lora_rank) == ("tiny-lm", 4)
    assert client.get_tokenizer().encode("a") == [97]
    client.unload().result(30)
    with pytest.raises(RunGone):
        client.forward(batch, "cross_entropy").result(30)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"base_model": ""}, "base_model"),
        ({"base_model": "no/such"}, "no/such"),
        ({"base_model": "tiny-lm", "rank": 0}, "rank"),
        ({"base_model": "tiny-lm", "train_mlp": False, "train_attn": False, "train_unembed": False}, "train_mlp"),
    ],
)
def test_a_run_that_cannot_be_is_refused(service: ServiceClient, arguments: dict[str, Any], field: str) -> None:
    """The error names what was wrong."""
    with pytest.raises(InvalidRequest, match=field):
        service.create_lora_training_client(**arguments)


def test_a_checkpoint_that_is_not_there(service: ServiceClient) -> None:
    """Neither a wrong path nor a missing checkpoint becomes a run."""
    with pytest.raises(InvalidRequest):
        service.create_training_client_from_state("weights/a")
    with pytest.raises(NotFound):
        service.create_training_client_from_state("tinker://nobody/weights/a")
