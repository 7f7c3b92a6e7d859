"""What was given at the call is what is sent, whatever the caller does with it afterwards.

Torch tensors too, where torch is installed (``make extras``).
"""

import array
import asyncio
import copy
import importlib.util
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scripted_server import ScriptedServer, json_response

from backends.tinkex import ServiceClient, TrainingClient
from backends.tinkex.client.sampling.client import SamplingClient
from backends.tinkex.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    PromptProvenanceSpan,
    SampledProvenanceSpan,
    SamplingParams,
    TensorData,
)
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, write_pass_request

OUTPUT = json_response({"loss_fn_output_type": "ArrayRecord", "loss_fn_outputs": [], "metrics": {}})
DRAWN = json_response({"sequences": [], "prompt_logprobs": [None], "topk_prompt_logprobs": [None]})
TOKENS = st.lists(st.integers(0, 300), min_size=1, max_size=5)
TORCH = importlib.util.find_spec("torch") is not None


@pytest.fixture(scope="module")
def recorder() -> Iterator[ScriptedServer]:
    """A server that accepts everything."""
    with ScriptedServer() as server:
        for route in ("forward", "forward_backward"):
            server.script(route, json_response({"request_id": "pass"}))
        server.script("asample", json_response({"request_id": "drawn"}))
        server.futures |= {"pass": [OUTPUT], "drawn": [DRAWN]}
        yield server


def slice_of(values: list[Any]) -> Any:
    """A view of a longer array."""
    return np.asarray([*values, *values])[: len(values)]


def array_of(values: list[Any]) -> Any:
    """An array of the standard library."""
    return array.array("q" if isinstance(values[0], int) else "d", values)


def tensor_of(values: list[Any]) -> Any:
    """A view of a longer torch tensor."""
    import torch

    return torch.tensor([*values, *values])[: len(values)]


BATCH_CALLS = ("forward", "forward_backward", "submit_forward", "submit_forward_backward")
PROMPT_CALLS = ("sample", "compute_logprobs", "compute_topk_logprobs")

CONTAINERS: st.SearchStrategy[Callable[[list[Any]], Any]] = st.sampled_from(
    [list, tuple, np.asarray, slice_of, array_of]
)
_DATUM_ARRAYS: list[Callable[[list[Any]], Any]] = [list, np.asarray, slice_of, *([tensor_of] if TORCH else [])]


@st.composite
def data_of(draw: st.DrawFn) -> list[Datum]:
    """A batch in containers of every kind: lists, tuples, arrays, views, sparse matrices, several chunks."""
    return [draw(datum_of()) for _ in range(draw(st.integers(1, 3)))]


@st.composite
def datum_of(draw: st.DrawFn) -> Datum:
    """A datum whose arrays have the length of its input."""
    ids = draw(TOKENS)
    cut = draw(st.integers(0, len(ids) - 1))
    parts = [part for part in (ids[:cut], ids[cut:]) if part]
    chunks: list[Any] = [EncodedTextChunk(tokens=draw(CONTAINERS)(part)) for part in parts]
    if draw(st.booleans()):
        chunks += [ImageChunk(data=bytearray(b"abc"), format="png", expected_tokens=0)]
        chunks += [DmelChunk(dmel=bytearray(b"abc"))]
    numbers = [float(value) for value in ids]
    dense = draw(CONTAINERS)(numbers)
    tensors: dict[str, Any] = {
        "target_tokens": draw(CONTAINERS)(ids),
        "weights": TensorData(data=dense, dtype="float32"),
    }
    if draw(st.booleans()):
        tensors["logprobs"] = list(numbers)
    if draw(st.booleans()):
        tensors["advantages"] = draw(st.sampled_from(_DATUM_ARRAYS))(numbers)
    if draw(st.booleans()):
        tensors["weights"] = TensorData(
            data=list(numbers), dtype="float32", shape=(len(ids), 1),
            sparse_crow_indices=np.arange(len(ids) + 1), sparse_col_indices=[0] * len(ids),
        )  # fmt: skip
    datum = Datum(model_input=ModelInput(chunks=chunks), loss_fn_inputs=tensors)
    if len(chunks) > len(parts) or draw(st.booleans()):
        return datum
    rows = [SampledProvenanceSpan(sequence_id="s", offset=0, length=len(ids))]
    spans = [PromptProvenanceSpan(sequence_id="s", offset=0, length=len(ids))]
    traced = datum.with_provenance(spans, rows)
    spans.clear()
    rows.clear()
    return traced


def spoil(values: Any) -> None:
    """Refill a container in place, as a caller does that reuses its buffers."""
    if isinstance(values, np.ndarray):
        values[...] = 7
    elif isinstance(values, list):
        values[:] = [7]
    elif isinstance(values, array.array):
        del values[:]


def spoil_input(model_input: ModelInput) -> None:
    """Refill the chunks, then remove them."""
    for chunk in model_input.chunks:
        if isinstance(chunk, EncodedTextChunk):
            spoil(chunk.tokens)
    model_input.chunks.clear()


def spoil_batch(batch: list[Datum]) -> None:
    """Refill every array, and empty every container."""
    for datum in batch:
        for tensor in datum.loss_fn_inputs.values():
            for values in (tensor.data, tensor.sparse_crow_indices, tensor.sparse_col_indices):
                spoil(values)
        datum.loss_fn_inputs.clear()
        spoil_input(datum.model_input)
    batch.clear()


def sent_bodies(recorder: ScriptedServer, encoding: str | None, method: str, batch: list[Datum]) -> list[bytes]:
    """Make the call, spoil what was given before anything is sent, and return what was sent."""
    config = {"clip_low_threshold": 0.8}

    async def call() -> None:
        async with ServiceClient.on_caller_loop("tml-test", recorder.url) as service:
            service.connection.memory.learn(request_encoding=encoding)
            client = TrainingClient.attach(service, model_id="run", session_id="s", next_seq_id=1)
            pending = getattr(client, method)(batch, "ppo", config)
            spoil_batch(batch)
            config.clear()
            future = await pending if method.startswith("submit_") else pending
            await future

    begin = len(recorder.received)
    asyncio.run(call())
    routes = ("forward", "forward_backward")
    return [request.body for request in recorder.received[begin:] if request.route in routes]


@pytest.mark.parametrize("encoding", [None, "protobuf", "json"])
@pytest.mark.parametrize("method", BATCH_CALLS)
@given(batch=data_of())
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_batch_is_sent_as_it_was(
    recorder: ScriptedServer, method: str, encoding: str | None, batch: list[Datum]
) -> None:
    """Cleared, refilled or changed after the call returned; in each encoding."""
    expected = [datum.copied() for datum in batch]
    only = method.endswith("forward")

    [body] = sent_bodies(recorder, encoding, method, batch)

    if encoding == "json":
        route = "forward_input" if only else "forward_backward_input"
        found = json.loads(body)[route]
        assert found["data"] == json.loads(json.dumps([datum.body() for datum in expected]))
        assert found["loss_fn_config"] == {"clip_low_threshold": 0.8}
    else:
        request = PassRequest("run", 1, expected, "ppo", {"clip_low_threshold": 0.8}, only)
        assert body == write_pass_request(request).joined()


@given(batch=data_of())
@settings(max_examples=25, deadline=None)
def test_a_copy_is_equal_and_independent(batch: list[Datum]) -> None:
    """Of every container of numbers."""
    before = [json.dumps(datum.body()) for datum in batch]
    copies = [datum.copied() for datum in batch]

    spoil_batch(batch)

    assert [json.dumps(datum.body()) for datum in copies] == before


@pytest.mark.parametrize("method", PROMPT_CALLS)
@given(ids=TOKENS, container=CONTAINERS)
@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_prompt_is_sent_as_it_was(recorder: ScriptedServer, method: str, ids: list[int], container: Any) -> None:
    """Its tokens, its chunks and the stop tokens."""
    prompt = ModelInput(chunks=[EncodedTextChunk(tokens=container(ids))])
    stop = [1, 2]
    arguments: dict[str, tuple[Any, ...]] = {
        "sample": (1, SamplingParams(stop=stop)), "compute_logprobs": (), "compute_topk_logprobs": (2,)
    }  # fmt: skip

    async def call() -> None:
        async with ServiceClient.on_caller_loop("tml-test", recorder.url) as service:
            client = SamplingClient(service, "sampler", session=service.attached_session("s"))
            future = getattr(client, method)(prompt, *arguments[method])
            spoil_input(prompt)
            stop.clear()
            await future

    expected = copy.deepcopy(ids)
    asyncio.run(call())

    body = recorder.bodies("asample")[-1]
    assert body["prompt"]["chunks"] == [{"type": "encoded_text", "tokens": expected}]
    if method == "sample":
        assert body["sampling_params"]["stop"] == [1, 2]


def test_metadata_of_a_session_is_sent_as_it_was(recorder: ScriptedServer) -> None:
    """Though the session is opened later, by the first call that needs one."""
    metadata = {"name": "mine"}

    async def call() -> None:
        async with ServiceClient.on_caller_loop("tml-test", recorder.url, user_metadata=metadata) as service:
            metadata.clear()
            await service.create_lora_training_client_async("m")

    asyncio.run(call())

    assert recorder.bodies("create_session")[-1]["user_metadata"] == {"name": "mine"}
