"""Whatever is sent, our bytes decode to the message that the official SDK would have sent."""

import base64
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from provision import HERE

from backends.tinkex.types import (
    Datum,
    DmelChunk,
    EncodedTextChunk,
    ImageChunk,
    ModelInput,
    SamplingParams,
    TensorData,
)
from backends.tinkex.wire.body import json_body
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, write_pass_request

Said = dict[str, Any]
Judge = Callable[[str, Said, bytes], None]

NEWEST = "sdk-0.38.0"
TOKEN = st.integers(0, 2**31 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
INT64 = st.integers(-(2**63), 2**63 - 1)
BINARY = st.binary(max_size=20).map(lambda data: base64.b64encode(data).decode())

texts = st.fixed_dictionaries({"kind": st.just("text"), "tokens": st.lists(TOKEN, max_size=5)})
images = st.fixed_dictionaries(
    {
        "kind": st.just("image"),
        "data": BINARY,
        "format": st.sampled_from(["png", "jpeg"]),
        "expected_tokens": st.none() | st.integers(-(2**31), 2**31 - 1),
    }
)
audio = st.fixed_dictionaries({"kind": st.just("dmel"), "data": BINARY})
prompts = st.lists(st.one_of(texts, images, audio), max_size=3)


@st.composite
def shaped(draw: st.DrawFn) -> Said:
    """An array with a shape, or a TensorData with or without one."""
    dtype, numbers = draw(st.sampled_from([("float32", FLOAT32), ("int64", INT64)]))
    shape = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3))
    size = int(np.prod(shape))
    values = draw(st.lists(numbers, min_size=size, max_size=size))
    held = draw(st.sampled_from(["array", "tensor"]))
    if held == "tensor" and draw(st.booleans()):
        shape = None
    return {"held": held, "dtype": dtype, "values": values, "shape": shape}


@st.composite
def sparse(draw: st.DrawFn) -> Said:
    """A matrix by rows."""
    dtype, numbers = draw(st.sampled_from([("float32", FLOAT32), ("int64", INT64)]))
    rows, columns = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    listed = [sorted(draw(st.sets(st.integers(0, columns - 1)))) for _ in range(rows)]
    flat = [column for row in listed for column in row]
    return {
        "held": "tensor",
        "dtype": dtype,
        "values": draw(st.lists(numbers, min_size=len(flat), max_size=len(flat))),
        "shape": [rows, columns],
        "sparse_crow_indices": [sum(len(row) for row in listed[:index]) for index in range(rows + 1)],
        "sparse_col_indices": flat,
    }


def plain(numbers: st.SearchStrategy[Any]) -> st.SearchStrategy[Said]:
    """A list as users write it."""
    return st.lists(numbers, min_size=1, max_size=5).map(lambda values: {"held": "list", "values": values})


tensors = st.one_of(
    st.dictionaries(st.text(max_size=6), shaped() | sparse(), max_size=3),
    st.fixed_dictionaries(
        {"target_tokens": plain(TOKEN)}, optional={"weights": plain(FLOAT32), "advantages": plain(FLOAT32)}
    ),
)
requests = st.fixed_dictionaries(
    {
        "data": st.lists(st.fixed_dictionaries({"chunks": prompts, "tensors": tensors}), max_size=3),
        "loss_fn": st.text(max_size=8),
        "seq_id": st.integers(0, 2**31 - 1),
        "forward_only": st.booleans(),
        "config": st.none()
        | st.dictionaries(st.text(max_size=5), st.floats(allow_nan=False) | st.text(max_size=5), max_size=3),
    }
)
params = st.fixed_dictionaries(
    {},
    optional={
        "max_tokens": st.integers(1, 2**31 - 1),
        "seed": st.integers(0, 2**31 - 1),
        "stop": st.lists(st.text(min_size=1), min_size=1, max_size=3) | st.lists(TOKEN, min_size=1, max_size=3),
        "temperature": st.floats(0, 10),
        "top_k": st.integers(-1, 1000),
        "top_p": st.floats(0, 1),
    },
)
samples = st.fixed_dictionaries({"chunks": prompts, "params": params})


def our_chunk(said: Said) -> Any:
    """The same chunk in our records."""
    if said["kind"] == "text":
        return EncodedTextChunk(tokens=said["tokens"])
    data = base64.b64decode(said["data"])
    if said["kind"] == "image":
        return ImageChunk(data=data, format=said["format"], expected_tokens=said["expected_tokens"])
    return DmelChunk(dmel=data)


def our_tensor(said: Said) -> Any:
    """The same tensor in our records; held as a list where the SDK holds an array, which must not matter."""
    if said["held"] == "list":
        return said["values"]
    if said["held"] == "array":
        return np.asarray(said["values"], dtype=said["dtype"]).reshape(said["shape"])
    return TensorData.model_validate(
        {"data": said["values"], **{k: v for k, v in said.items() if k not in ("held", "values")}}
    )


def our_prompt(said: list[Said]) -> ModelInput:
    """The same input in our records."""
    return ModelInput(chunks=[our_chunk(one) for one in said])


@pytest.fixture(scope="session")
def judge(provided: Callable[[str], Path]) -> Iterator[Judge]:
    """The newest official SDK in a process of its own, asked again and again."""
    command = [provided(NEWEST), HERE / "wire_judge.py"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def ask(kind: str, said: Said, ours: bytes) -> None:
            line = json.dumps({"kind": kind, "said": said, "ours": base64.b64encode(ours).decode()})
            print(line, file=process.stdin, flush=True)
            verdict = json.loads(process.stdout.readline())
            assert verdict["equal"], verdict["how"]

        yield ask
        process.stdin.close()


@settings(max_examples=300, suppress_health_check=list(HealthCheck))
@given(said=requests)
def test_training_requests_are_the_sdks(judge: Judge, said: Said) -> None:
    """Any batch, any loss, any configuration; arrays, lists, shapes, sparse rows, images and audio."""
    data = [
        Datum(
            model_input=our_prompt(one["chunks"]),
            loss_fn_inputs={name: our_tensor(value) for name, value in one["tensors"].items()},
        )
        for one in said["data"]
    ]
    request = PassRequest(
        "run:train:0", said["seq_id"], data, said["loss_fn"], said["config"], said["forward_only"]
    )

    judge("request", said, write_pass_request(request).joined())


@settings(max_examples=200, suppress_health_check=list(HealthCheck))
@given(said=samples)
def test_prompts_and_sampling_parameters_are_the_sdks(judge: Judge, said: Said) -> None:
    """Our JSON reads as the SDK's own records."""
    body = {"prompt": our_prompt(said["chunks"]).body(), "sampling_params": SamplingParams(**said["params"]).body()}

    judge("sample", said, json_body(body).joined())
