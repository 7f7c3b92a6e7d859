"""Training over real HTTP: order, exactness, sequence numbers, checkpoints and custom losses."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tinkex_runs import ADAM, client_of, new_run, train

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.errors import RequestNotSent
from backends.tinkex.types import Datum
from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest, NameTaken, NotFound, RequestTimeout, RunGone


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
        return (
            -sum(float(array.sum()) for array in logprobs),
            [-np.ones_like(array) for array in logprobs],
            {"mine": 1.0},
        )

    expected = plain.forward_backward(batch, "cross_entropy").result(30)
    future = custom.forward_backward_custom(batch, minus_sum, arrays="numpy")
    step = custom.optim_step(ADAM)

    assert future.result(30).metrics["loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
    assert future.result(30).metrics["surrogate_loss:sum"] == pytest.approx(expected.metrics["loss:sum"], rel=1e-5)
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
            lambda data, logprobs: (1.0, [np.full_like(array, np.nan) for array in logprobs], {}),
            "gradients",
            id="NaN",
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
