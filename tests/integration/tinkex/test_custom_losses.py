"""Losses that the server computes from a graph, against the dev server and servers that compute none."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_server import ScriptedServer, json_response

from backends.tinkex import LossHandle, ServiceClient
from backends.tinkex.client.custom_losses.loss_tracer import traced_graph
from backends.tinkex.types import (
    AdamParams,
    CustomLossGraph,
    CustomLossNode,
    Datum,
    ModelInput,
    SampledProvenanceSpan,
)
from backends.tinkex_dev.server import DevServer
from crucible.errors import InvalidRequest, Unsupported

MakeService = Callable[..., ServiceClient]
MODEL = "llama-3.2-1b"
RANKS: dict[str, Any] = {"logprobs": 1, "weights": 1}


def node(op: str, name: str, target: str, *args: Any) -> CustomLossNode:
    """A node without keyword arguments."""
    return CustomLossNode(op=op, name=name, target=target, args=list(args))  # type: ignore[arg-type]  # a literal


GRAPH = CustomLossGraph(
    nodes=[
        node("placeholder", "logprobs", "logprobs"),
        node("placeholder", "weights", "weights"),
        node("call_function", "mul", "operator.mul", {"ref": "logprobs"}, {"ref": "weights"}),
        node("call_method", "total", "sum", {"ref": "mul"}),
        node("call_function", "neg", "operator.neg", {"ref": "total"}),
        node(
            "output", "output", "output", {"tuple": [{"ref": "neg"}, {"dict": {"custom/nll:sum": {"ref": "neg"}}}]}
        ),
    ]
)
"""The weighted negative log-likelihood."""


def batch() -> list[Datum]:
    """Two examples."""
    return [
        Datum(
            model_input=ModelInput.from_ints([1, 2, last]),
            loss_fn_inputs={"target_tokens": [2, last, 4], "weights": [0.0, 1.0, 0.5]},
        )
        for last in (3, 7)
    ]


@pytest.fixture
def service(server: DevServer, make_service: MakeService) -> ServiceClient:
    """A client of the dev server."""
    return make_service(server.url)


def test_a_graph_is_computed_by_the_server(service: ServiceClient) -> None:
    """As the cross entropy that it is, with its metrics; the same graph is stored once."""
    runs = [service.create_lora_training_client(MODEL, rank=4, seed=1) for _ in range(2)]
    handle = service.create_custom_loss(GRAPH, RANKS).result(30)

    plain = runs[0].forward_backward(batch(), "cross_entropy").result(30)
    custom = runs[1].forward_backward_custom(batch(), handle).result(30)

    assert custom.metrics["loss:sum"] == pytest.approx(plain.metrics["loss:sum"], rel=1e-6)
    assert custom.metrics["custom/nll:sum"] == pytest.approx(plain.metrics["loss:sum"], rel=1e-6)
    norms = [run.optim_step(AdamParams(learning_rate=0.1)).result(30).metrics["grad_norm"] for run in runs]
    assert norms[1] == pytest.approx(norms[0], rel=1e-6)
    assert service.create_custom_loss(GRAPH, RANKS).result(30).loss_id == handle.loss_id
    assert service.create_custom_loss(GRAPH, RANKS, name="other").result(30).loss_id != handle.loss_id


@pytest.mark.parametrize("protobuf", [True, False])
def test_the_inputs_of_a_loss_need_not_be_as_long_as_the_tokens(
    make_server: Any, make_service: MakeService, protobuf: bool
) -> None:
    """A number, and a row of another length; in both encodings."""
    service = make_service(make_server(protobuf=protobuf).url)
    graph = CustomLossGraph(
        nodes=[
            *(node("placeholder", name, name) for name in ("logprobs", "scale", "bonus")),
            node("call_method", "total", "sum", {"ref": "logprobs"}),
            node("call_method", "extra", "sum", {"ref": "bonus"}),
            node("call_function", "mul", "operator.mul", {"ref": "total"}, {"ref": "scale"}),
            node("call_function", "add", "operator.add", {"ref": "mul"}, {"ref": "extra"}),
            node("output", "output", "output", {"tuple": [{"ref": "add"}, {"dict": {}}]}),
        ]
    )
    handle = service.create_custom_loss(graph, {"logprobs": 1, "scale": 0, "bonus": 1}).result(30)
    run = service.create_lora_training_client(MODEL, rank=4, seed=1)
    targets = {"target_tokens": [2, 3, 4]}

    def loss(scale: float) -> float:
        inputs = {**targets, "scale": np.array(scale, np.float32), "bonus": [1.0, 2.0]}
        datum = Datum(model_input=ModelInput.from_ints([1, 2, 3]), loss_fn_inputs=inputs)
        return run.forward_backward_custom([datum], handle).result(30).metrics["loss:sum"]

    assert loss(2.0) - 3.0 == pytest.approx(2 * (loss(1.0) - 3.0), rel=1e-6)


def test_changes_after_the_call_change_nothing(service: ServiceClient) -> None:
    """The graph is that of the call."""
    graph = GRAPH.model_copy(deep=True)

    pending = service.create_custom_loss(graph, RANKS)
    graph.nodes.clear()

    assert pending.result(30).loss_id == service.create_custom_loss(GRAPH, RANKS).result(30).loss_id


def test_a_loss_belongs_to_its_session_and_has_its_inputs(
    service: ServiceClient, server: DevServer, make_service: MakeService
) -> None:
    """Both are found out before anything is sent."""
    run = service.create_lora_training_client(MODEL, rank=4)
    foreign = make_service(server.url).create_custom_loss(GRAPH, RANKS).result(30)
    own = service.create_custom_loss(GRAPH, RANKS).result(30)
    [datum, _] = batch()
    bare = datum.model_copy(update={"loss_fn_inputs": {"target_tokens": datum.loss_fn_inputs["target_tokens"]}})

    with pytest.raises(InvalidRequest, match="session"):
        run.forward_backward_custom([datum], foreign)
    with pytest.raises(InvalidRequest, match=r"data\[0\]\.loss_fn_inputs\.weights.*rank 1"):
        run.forward_backward_custom([bare], own)


@pytest.mark.parametrize(
    ("loss", "ranks", "field"),
    [
        (GRAPH, {"weights": 1, "logprobs": 1}, "input_ranks"),
        (GRAPH, {"logprobs": 0}, "input_ranks"),
        (GRAPH, {"logprobs": 1, "Weights": 1}, "input_ranks"),
        (GRAPH, {"logprobs": 1, "weights": 3}, "input_ranks"),
        (lambda logprobs, weights: None, {"logprobs": 1}, "input_ranks"),
        (lambda logprobs, weights=1: None, RANKS, "loss"),
        (lambda *logprobs: None, {"logprobs": 1}, "loss"),
    ],
)
def test_names_and_ranks_are_checked(service: ServiceClient, loss: Any, ranks: Any, field: str) -> None:
    """At the call."""
    with pytest.raises(InvalidRequest, match=field):
        service.create_custom_loss(loss, ranks)


def test_a_graph_needs_a_server_that_computes_it(scripted: ScriptedServer, make_service: MakeService) -> None:
    """One without the flag is asked for nothing."""
    with pytest.raises(Unsupported, match="custom losses is not offered"):
        make_service(scripted.url).create_custom_loss(GRAPH, RANKS).result(10)

    assert scripted.bodies("create_custom_loss") == []


def test_a_function_is_traced_and_computed_by_server_and_client_alike(service: ServiceClient) -> None:
    """The client's own computation, of a server without the flag, has the same gradients. With torch only."""
    torch = pytest.importorskip("torch")

    def nll(logprobs: Any, weights: Any) -> Any:
        loss = -(torch.exp(logprobs[1:]) * weights[1:]).sum()
        return loss, {"custom/half:mean": loss * 0.5}

    def branching(logprobs: Any) -> Any:
        return (logprobs.sum() if logprobs.sum() > 0 else logprobs.mean()), {}

    assert [one.op for one in traced_graph(nll, "nll").nodes][-1] == "output"
    runs = [service.create_lora_training_client(MODEL, rank=4, seed=1) for _ in range(2)]
    stored = service.create_custom_loss(nll, RANKS).result(30)
    local = LossHandle(stored.name, stored.inputs, stored.session_id, None, nll)

    outputs = [
        run.forward_backward_custom(batch(), handle).result(30)
        for run, handle in zip(runs, (stored, local), strict=False)
    ]
    norms = [run.optim_step(AdamParams(learning_rate=0.1)).result(30).metrics["grad_norm"] for run in runs]

    assert stored.loss_id is not None
    for name in ("loss:sum", "custom/half:mean"):
        assert outputs[1].metrics[name] == pytest.approx(outputs[0].metrics[name], rel=1e-5)
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
    for refused in (lambda logprobs: (logprobs.sum().item(), {}), branching):
        with pytest.raises(InvalidRequest, match="loss"):
            service.create_custom_loss(refused, {"logprobs": 1})


def test_both_passes_of_a_custom_loss_have_the_spans_of_the_batch(
    scripted: ScriptedServer, make_service: MakeService
) -> None:
    """The forward pass and the backward pass name the sequences that the tokens are from."""
    spans = [SampledProvenanceSpan(sequence_id="s", offset=0, length=3)]
    given = [datum.with_provenance(spans, spans) for datum in batch()]
    outputs = [{"logprobs": {"data": [-1.0] * 3, "dtype": "float32", "shape": [3]}} for _ in given]
    answer = {"loss_fn_output_type": "ArrayRecord", "loss_fn_outputs": outputs, "metrics": {}}
    for route in ("forward", "forward_backward"):
        scripted.script(route, json_response({"request_id": route}))
        scripted.futures[route] = [json_response(answer)]
    service = make_service(scripted.url)
    service.connection.memory.learn(request_encoding="json")

    run = service.create_lora_training_client("m")
    run.forward_backward_custom(given, lambda _, found: (0.0, found, {}), arrays="numpy").result(30)

    [forward] = scripted.bodies("forward")
    [backward] = scripted.bodies("forward_backward")
    expected = [datum.body()["loss_fn_input_spans"] for datum in given]
    for body in (forward["forward_input"], backward["forward_backward_input"]):
        assert [datum["loss_fn_input_spans"] for datum in body["data"]] == expected
