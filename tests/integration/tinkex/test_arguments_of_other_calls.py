"""What calls other than passes and prompts were given is what they use, whatever the caller does with it later."""

import asyncio
import importlib.util
import inspect
import re
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scripted_server import ScriptedServer, json_response
from test_arguments_at_the_call import BATCH_CALLS, PROMPT_CALLS

import backends.tinkex.compat as tinker
from backends.tinkex import RestClient, SamplingClient, ServiceClient, TrainingClient, types
from backends.tinkex.types import CustomLossGraph, CustomLossNode, ModelInput, SamplingParams, TensorData
from backends.tinkex.types.optimizer import OptimizerConfigBase, OptimParamsBase
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


def create_custom_loss_async(service: ServiceClient, _: TrainingClient, __: SamplingClient) -> Any:
    """As ``create_custom_loss``, awaited later."""
    given, ranks = graph(), {"logprobs": 1}

    def change() -> None:
        given.nodes.clear()
        ranks.clear()

    return service.create_custom_loss_async(given, ranks), change  # type: ignore[arg-type]  # ranks are literals


def optim_step(_: ServiceClient, run: TrainingClient, __: SamplingClient) -> Any:
    """The fields of an optimizer family that this client does not know."""
    betas = [0.9, 0.99]
    return run.optim_step(OptimParamsBase(type="other", betas=betas)), betas.clear  # type: ignore[call-arg]


def submit_optim_step(_: ServiceClient, run: TrainingClient, __: SamplingClient) -> Any:
    """As ``optim_step``, awaited later."""
    betas = [0.9, 0.99]

    async def ended(pending: Any) -> Any:
        return await (await pending)

    pending = run.submit_optim_step(OptimParamsBase(type="other", betas=betas))  # type: ignore[call-arg]
    return ended(pending), betas.clear


def create_lora_training_client_async(service: ServiceClient, _: TrainingClient, __: SamplingClient) -> Any:
    """The metadata of the run, and the fields of an unknown optimizer family."""
    metadata, betas = {"name": "mine"}, [0.9]

    def change() -> None:
        metadata.clear()
        betas.clear()

    config = OptimizerConfigBase(type="other", betas=betas)  # type: ignore[call-arg]
    pending = service.create_lora_training_client_async("m", user_metadata=metadata, optimizer_config=config)
    return pending, change


def restoring(method: str) -> Call:
    """A call that restores a run with metadata."""

    def call(service: ServiceClient, _: TrainingClient, __: SamplingClient) -> Any:
        metadata = {"name": "mine"}
        return getattr(service, method)("tinker://run/weights/one", metadata), metadata.clear

    return call


RESTORING = (
    "create_training_client_from_state_async", "create_training_client_from_state_with_optimizer_async"
)  # fmt: skip
OTHER_CALLS: dict[str, tuple[str, Call]] = {
    "sample": ("asample", asample),
    "save_weights_external": ("save_weights_external", save_weights_external),
    "retrieve_futures": ("retrieve_futures", retrieve_futures),
    "create_custom_loss": ("create_custom_loss", create_custom_loss),
    "create_custom_loss_async": ("create_custom_loss", create_custom_loss_async),
    "optim_step": ("optim_step", optim_step),
    "submit_optim_step": ("optim_step", submit_optim_step),
    "create_lora_training_client_async": ("create_model", create_lora_training_client_async),
    **{method: ("create_model", restoring(method)) for method in RESTORING},
}
"""Calls by their method, with the route whose request has the arguments."""

NOTHING_IS_SENT_LATER = {
    # these return when their requests have been answered
    "create_lora_training_client", "create_training_client_from_state",
    "create_training_client_from_state_with_optimizer",
    # and these send nothing
    "chunk_count", "sample_stream",
}  # fmt: skip


def test_every_call_with_arguments_that_can_change_is_tested() -> None:
    """Here, with the passes and prompts beside this file, or with custom losses below; found by its signature."""
    clients = (ServiceClient, TrainingClient, SamplingClient, RestClient)
    methods = (found for client in clients for found in inspect.getmembers(client, callable))
    tested = {*OTHER_CALLS, *BATCH_CALLS, *PROMPT_CALLS, "forward_backward_custom"}

    found = {name for name, method in methods if not name.startswith("_") and takes_changeable(method)}

    assert found - NOTHING_IS_SENT_LATER == tested


def takes_changeable(method: Any) -> bool:
    """Return whether an argument is a container, or a record that may hold one."""
    kinds = r"Sequence|Mapping|list|dict|ndarray|ModelInput|TensorData|SamplingParams|Optim|Graph"
    given = inspect.signature(method).parameters.values()
    return any(re.search(kinds, getattr(one.annotation, "__name__", "") + str(one.annotation)) for one in given)


@pytest.mark.parametrize("method", OTHER_CALLS)
def test_every_other_call_sends_its_arguments_as_they_were(method: str) -> None:
    """The request of a caller that changes them equals the request of one that does not."""
    assert body_of(method, spoiled=True) == body_of(method, spoiled=False)


def body_of(method: str, *, spoiled: bool) -> Any:
    """Make a call on a server that refuses it, and return what was sent."""
    route, make = OTHER_CALLS[method]

    async def call(url: str) -> None:
        async with ServiceClient.on_caller_loop("tml-test", url) as service:
            run = TrainingClient.attach(service, model_id="run", session_id="s", next_seq_id=1)
            sampler = SamplingClient(service, "sampler", session=service.attached_session("s"))
            future, change = make(service, run, sampler)
            if spoiled:
                change()
            with pytest.raises(CrucibleError):
                await future

    with ScriptedServer() as server:
        server.script("client/config", json_response({"custom_loss_server_side": True}))
        server.script("weights_info", json_response({"base_model": "m", "is_lora": True, "lora_rank": 4}))
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
