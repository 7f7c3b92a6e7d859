"""What calls other than passes and prompts were given is what they use, whatever the caller does with it later."""

import asyncio
import importlib.util
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_server import ScriptedServer, json_response

import backends.tinkex.compat as tinker
from backends.tinkex import ServiceClient, TrainingClient, types
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.types import CustomLossGraph, CustomLossNode, ModelInput, SamplingParams, TensorData
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.errors import CrucibleError

TORCH = importlib.util.find_spec("torch") is not None


def graph() -> CustomLossGraph:
    """A loss with arguments in lists."""
    total = CustomLossNode(op="call_method", name="total", target="sum", args=[{"ref": "logprobs"}])
    return CustomLossGraph(nodes=[total])


Call = Callable[[ServiceClient, TrainingClient, SamplingClient], tuple[Any, Callable[[], object]]]
"""Makes a call; returns its future and a function that changes what it was given."""


def asample(_: ServiceClient, __: TrainingClient, sampler: SamplingClient) -> Any:
    """The token ids whose log-probabilities are returned."""
    ids = np.asarray([[1, 2], [3, 4]])
    future = sampler.sample(
        ModelInput.from_ints([1, 2, 3]), 1, SamplingParams(), target_prompt_logprobs=TensorData.from_numpy(ids)
    )
    return future, lambda: ids.fill(7)


def save_weights_external(_: ServiceClient, run: TrainingClient, __: SamplingClient) -> Any:
    """The keys of the files' readers."""
    keys = ["age1one", "age1two"]
    return run.save_weights_external("x", age_encryption_recipients=keys), keys.clear


def retrieve_futures(service: ServiceClient, _: TrainingClient, __: SamplingClient) -> Any:
    """The requests whose results were read."""
    ids = ["one", "two"]
    return service.create_rest_client().retrieve_futures("s", retrieved_request_ids=ids), ids.clear


def create_custom_loss(service: ServiceClient, _: TrainingClient, __: SamplingClient) -> Any:
    """The nodes of a graph with their arguments, and the ranks."""
    given, ranks = graph(), {"logprobs": 1, "weights": 1}

    def change() -> None:
        given.nodes[0].args.clear()
        given.nodes.clear()
        ranks.clear()

    return service.create_custom_loss(given, ranks), change  # type: ignore[arg-type]  # ranks are literals


OTHER_CALLS: dict[str, Call] = {
    call.__name__: call for call in (asample, save_weights_external, retrieve_futures, create_custom_loss)
}


@pytest.mark.parametrize("route", OTHER_CALLS)
def test_every_other_call_sends_its_arguments_as_they_were(route: str) -> None:
    """The request of a caller that changes them equals the request of one that does not."""
    assert body_of(route, spoiled=True) == body_of(route, spoiled=False)


def body_of(route: str, *, spoiled: bool) -> Any:
    """Make a call on a server that refuses it, and return what was sent."""

    async def call(url: str) -> None:
        async with ServiceClient.on_caller_loop("tml-test", url) as service:
            run = TrainingClient.attach(service, model_id="run", session_id="s", next_seq_id=1)
            sampler = SamplingClient(service, "sampler", session=service.attached_session("s"))
            future, change = OTHER_CALLS[route](service, run, sampler)
            if spoiled:
                change()
            with pytest.raises(CrucibleError):
                await future

    with ScriptedServer() as server:
        server.script("client/config", json_response({"custom_loss_server_side": True}))
        server.script(route, json_response({"detail": "no"}, 422))
        asyncio.run(call(server.url))
        return server.bodies(route)[0]


needs_torch = pytest.mark.skipif(not TORCH, reason="needs torch")
LOSSES = [
    pytest.param("numpy", False, id="numpy"),
    pytest.param("torch", False, id="torch", marks=needs_torch),
    pytest.param("torch", True, id="shim", marks=needs_torch),
]


@pytest.mark.parametrize(("library", "shim"), LOSSES)
def test_a_custom_loss_computes_with_the_batch_as_it_was(server: DevServer, library: str, *, shim: bool) -> None:
    """Though it runs after the caller has changed the arrays."""
    weights = np.asarray([0.0, 1.0, 1.0], dtype=np.float32)
    changed, found = threading.Event(), []

    def loss(data: Any, logprobs: Any) -> Any:
        assert changed.wait(30)
        found.append(list(data[0].loss_fn_inputs["weights"].data))
        if library == "numpy":
            return float(logprobs[0].sum()), [np.ones_like(logprobs[0])], {}
        return logprobs[0].sum(), {}

    names = tinker if shim else types
    batch = [
        names.Datum(
            model_input=names.ModelInput.from_ints([1, 2, 3]),
            loss_fn_inputs={"target_tokens": np.asarray([2, 3, 4]), "weights": weights},
        )
    ]
    service: Any = (
        tinker.ServiceClient(base_url=server.url, api_key=DEV_KEY) if shim else ServiceClient(DEV_KEY, server.url)
    )
    with service:
        run = service.create_lora_training_client("llama-3.2-1b", rank=4)
        future = run.forward_backward_custom(batch, loss, **({} if shim else {"arrays": library}))
        weights[...] = 7
        batch.clear()
        changed.set()
        future.result(30)

    assert found == [[0.0, 1.0, 1.0]]
