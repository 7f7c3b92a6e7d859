"""Many inputs of users, brokers and clients, made by the fast generator: job files, rows, messages, requests."""

import json
import random
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml

from backends.tinkex.types.datum import Datum
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.tensor_data import TensorData
from backends.tinkex.wire.protobuf.pass_request_codec import PassRequest, write_pass_request
from backends.tinkex_dev.wire import requests
from backends.tinkex_dev.wire.batches import batch_of_json
from backends.tinkex_dev.wire.exchange import parse
from backends.tinkex_dev.wire.protobuf import batch_of_request, read_request
from backends.tinkex_dev.wire.tensors import tokens_of_chunks
from nsai_work.client.jobfile import load_jobs
from nsai_work.client.validation.job_check import validate_jobs
from nsai_work.data.dataset import load_data
from nsai_work.dispatch.consumer import WakeConsumer
from nsai_work.dispatch.wakeup import BadWakeUp, encode
from nsai_work.inference import pin_prompts
from nsai_work.inference.answers import unpacked
from nsai_work.job import Priority
from nsai_work.journal import AnswerRow
from nsai_work.payloads import DataSource, TrainingData
from nsai_work.placement import candidate_backends
from nsai_work.store.records import WakeUp
from tests.fuzz.generator import damaged, hostile, mutated, random_message, run_target
from tests.fuzz.mutations import bounded_memory

Target = Callable[[random.Random, Path], None]

LOCAL = {"fake", "python"}
"""Backends whose checks at submit ask no service."""
EXAMPLES = sorted(Path("examples").absolute().glob("*.yaml"))
JOBS: list[Any] = [yaml.safe_load(path.read_text()) for path in EXAMPLES] + [
    {"kind": "tool_call", "backend": "fake", "payload": {"command": "noop", "arguments": {"x": [1, {"y": None}]}}},
    {
        "kind": "inference",
        "backend": "fake",
        "payload": {"prompt": {"messages": [{"role": "user", "content": "a"}]}},
    },
    {
        "kind": "composite",
        "payload": {},
        "id": "a",
        "tags": ["x"],
        "metadata": {"a": 1},
        "priority": "low",
        "resources": {"timeout_ms": 5},
        "constraints": {"depends_on": ["b"], "not_before": "2030-01-01T00:00:00Z", "concurrency_group": "g"},
        "retry_policy": {"max_attempts": 2, "backoff_type": "linear", "retryable_errors": ["backend"]},
    },
]
TEXTS = [path.read_bytes() for path in EXAMPLES] + [json.dumps(job, indent=1).encode() for job in JOBS]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
ROWS: list[Any] = [
    {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]},
    {"text": "a"},
    {"prompt": "a", "id": 7, "metadata": {"x": 1}, "options": {"model": "m", "temperature": 0.5, "stop": "x"}},
    {
        "messages": [
            {"role": "system", "content": "a"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image", "data": "aGk="}]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "b", "tool_call_id": "c"},
        ],
        "tools": [{"name": "f", "description": "d", "parameters": {"type": "object"}}],
        "options": {"response_format": "json_schema", "json_schema": {"type": "object"}, "logprobs": True},
    },
]
USAGE = {"prompt_tokens": 1, "completion_tokens": 2}
ANSWERS: list[Any] = [
    {"line": 1, "prompt_sha256": "a", "completion": {"choices": [{"finish_reason": "stop"}], "usage": USAGE}},
    {
        "line": 2,
        "prompt_sha256": "b",
        "id": "x",
        "error": {"code": "timeout", "message": "m", "category": "timeout"},
    },
]
WAKE = encode(WakeUp(job_id="j", fence=3, priority=Priority.INTERACTIVE, traceparent="00-ab-cd-01"))
TENSOR = {"data": [0.5, 1.0], "dtype": "float32", "shape": [2]}
BODIES: list[Any] = [
    {"loss_fn": "cross_entropy", "data": [{
        "model_input": {"chunks": [{"type": "encoded_text", "tokens": [1, 2]}]},
        "loss_fn_inputs": {"weights": TENSOR, "target_tokens": {**TENSOR, "data": [1, 2], "dtype": "int64"}},
    }]},
    {"model_id": "m", "seq_id": 1, "adam_params": {"learning_rate": 0.1}, "path": "p", "ttl_seconds": 5},
    {"session_id": "s", "model_seq_id": 1, "base_model": "m", "lora_config": {"rank": 8}, "user_metadata": {}},
    {"prompt": {"chunks": [{"type": "encoded_text", "tokens": [1]}]}, "sampling_params": {"max_tokens": 4}},
]  # fmt: skip
KINDS = [
    kind
    for kind in vars(requests).values()
    if isinstance(kind, type) and issubclass(kind, requests.RequestBody) and kind is not requests.RequestBody
]


@cache
def _request() -> bytes:
    tensors = {
        "weights": TensorData(data=np.array([1.0, 0.5], np.float32), dtype="float32", shape=[2]),
        "target_tokens": TensorData(data=np.array([1, 2]), dtype="int64", shape=[2]),
    }
    datum = Datum(model_input=ModelInput(chunks=[EncodedTextChunk(tokens=[1, 2])]), loss_fn_inputs=tensors)
    request = PassRequest("model", 3, [datum, datum], "cross_entropy", {"beta": 0.5})
    return b"".join(bytes(piece) for piece in write_pass_request(request).pieces)


def _job_file(rng: random.Random, folder: Path) -> None:
    file = folder / "job.yaml"
    kind = rng.random()
    if kind < 0.4:
        file.write_bytes(damaged(rng, rng.choice(TEXTS)))
    elif kind < 0.9:
        job = mutated(rng, rng.choice(JOBS))
        file.write_bytes(json.dumps([job] * rng.choice((1, 1, 2)) if kind < 0.6 else job).encode())
    else:
        file.write_text("".join(rng.choices("ab:-[]{}&*!|>'\"#\n\t ,?%@`1.e~<=", k=rng.randrange(60))))
    jobs = load_jobs(file)
    for job in jobs:
        json.dumps(job.model_dump(mode="json"), allow_nan=False)
    if all(set(candidate_backends(job)) <= LOCAL for job in jobs):
        validate_jobs(jobs, timeout_s=5)


def _rows(rng: random.Random, seeds: list[Any]) -> bytes:
    lines = [json.dumps(mutated(rng, rng.choice(seeds))).encode() for _ in range(rng.randrange(4))]
    data = b"\n".join([*lines, b""])
    return damaged(rng, data) if rng.random() < 0.5 else data


def _training_rows(rng: random.Random, folder: Path) -> None:
    file = folder / "data"
    file.write_bytes(_rows(rng, ROWS))
    load_data(
        TrainingData.model_validate(
            {"path": str(file), "format": rng.choice(("auto", "messages", "text", "alpaca", "sharegpt"))}
        )
    )


def _prompt_rows(rng: random.Random, folder: Path) -> None:
    file = folder / "prompts.jsonl"
    file.write_bytes(_rows(rng, ROWS))
    pin_prompts(DataSource(path=str(file)), require_model=rng.random() < 0.5)


def _answer_rows(rng: random.Random, _: Path) -> None:
    content = _rows(rng, ANSWERS).partition(b"\n")[0]
    unpacked(AnswerRow(1, "0" * 64, zlib.compress(content) if rng.random() < 0.9 else content))


def _message(rng: random.Random, _: Path) -> None:
    body: Any = WAKE.body
    match rng.randrange(4):
        case 0:
            body = damaged(rng, body)
        case 1:
            body = json.dumps(mutated(rng, json.loads(body))).encode()
        case 2:
            body = rng.choice((hostile(rng), memoryview(damaged(rng, body)), body.decode(), b"x" * 5000))
        case _:
            body = rng.choice((b"[" * 3000, b"9" * 4000, rng.randbytes(40), json.dumps(hostile(rng)).encode()))
    headers = mutated(rng, WAKE.headers) if rng.random() < 0.3 else WAKE.headers
    found: list[object] = []
    consumer = SimpleNamespace(app=SimpleNamespace(inbox=SimpleNamespace(put=found.append)), connection_errors=())
    message = SimpleNamespace(body=body, headers=headers, ack_log_error=lambda *_: None)
    WakeConsumer.create_task_handler(consumer)(message)
    assert len(found) == 1
    assert isinstance(found[0], WakeUp | BadWakeUp)


def _protobuf_request(rng: random.Random, _: Path) -> None:
    body = damaged(rng, _request()) if rng.random() < 0.6 else random_message(rng)
    batch_of_request(read_request(body), ("x",))


def _json_request(rng: random.Random, _: Path) -> None:
    body = json.dumps(mutated(rng, rng.choice(BODIES))).encode()
    if rng.random() < 0.4:
        body = damaged(rng, body)
    found = parse(body, rng.choice(KINDS))
    if isinstance(found, requests.ForwardBackwardInput):
        batch_of_json(found, ("x",), forward_only=False)
    if isinstance(found, requests.PromptFields):
        tokens_of_chunks(found.chunks, ("x",))


def _batch(rng: random.Random, _: Path) -> None:
    found = parse(json.dumps(mutated(rng, BODIES[0])).encode(), requests.ForwardBackwardInput)
    batch_of_json(found, ("x",), forward_only=rng.random() < 0.5)


TARGETS: dict[str, Target] = {
    "job file": _job_file,
    "rows: training data": _training_rows,
    "rows: prompts": _prompt_rows,
    "rows: answers": _answer_rows,
    "broker: message": _message,
    "dev server: protobuf": _protobuf_request,
    "dev server: JSON": _json_request,
    "dev server: batch": _batch,
}
MADE = {"job.yaml", "data", "prompts.jsonl"}


@pytest.fixture(scope="module", autouse=True)
def memory() -> Iterator[None]:
    """Of all tests here."""
    with bounded_memory():
        yield


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("target", TARGETS)
def test_only_errors_of_the_family_are_raised(target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the input; and nothing is stored beside it."""
    home = tmp_path / "home"
    monkeypatch.setenv("NSAI_WORK_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    run_target(target, lambda rng: TARGETS[target](rng, tmp_path))
    assert {path.name for path in tmp_path.iterdir()} <= MADE
