"""Images through the official SDK: what it sends for an example and a prompt, our client and a job of ours send."""

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from provision import HERE, SDK_VERSIONS

from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible import Prompt, connect
from crucible.rendering.tokenizer import ByteTokenizer
from nsai_work import Job, submit
from nsai_work.data.dataset import load_data, new_counts
from nsai_work.data.rendering.rules import Rendering
from nsai_work.payloads import TrainingData, TrainingStep
from nsai_work.testing import isolated_store, run_jobs
from tests.pictures import data_url, png

NEWEST = f"sdk-{SDK_VERSIONS[-1]}"
MODEL = "llama-3.2-1b"
QUESTION = [
    {"type": "text", "text": "Look:"},
    {"type": "image_url", "image_url": {"url": data_url(png(60, 30, 7))}},
]
ROW = {"messages": [{"role": "user", "content": QUESTION}, {"role": "assistant", "content": "Grey."}]}
PASSES = ("forward_backward", "optim_step")


def payload(folder: Path) -> dict[str, Any]:
    """Two steps on the row."""
    (folder / "rows.jsonl").write_text(json.dumps(ROW) + "\n")
    return {
        "base_model": MODEL,
        "data": {"path": str(folder / "rows.jsonl")},
        "lora": {"rank": 4, "seed": 0},
        "batch_size": 1,
        "max_steps": 2,
        "checkpoint_policy": {"strategy": "last"},
    }


@pytest.fixture
def task(tmp_path: Path) -> dict[str, Any]:
    """The example, as our rendering makes it of the row."""
    data = TrainingData(path=payload(tmp_path)["data"]["path"])
    (example,) = load_data(data).examples
    (datum,) = Rendering(ByteTokenizer(), 4096).datums(example, new_counts(data, 0))
    (image,) = datum.images
    begin = next(place for place, weight in enumerate(datum.loss_inputs["weights"]) if weight)
    return {
        "model": MODEL,
        "tokens": [*datum.tokens],
        "targets": [*datum.loss_inputs["target_tokens"]],
        "weights": [*datum.loss_inputs["weights"]],
        "prompt": [*datum.tokens[: begin + 1]],
        "optimizer": TrainingStep.model_validate(payload(tmp_path)).optimizer.model_dump(
            include={"learning_rate", "beta1", "beta2", "eps", "weight_decay", "grad_clip_norm"}
        ),
        "image": {
            "place": image.place,
            "length": image.length,
            "format": image.format,
            "data": base64.b64encode(image.data).decode(),
        },
    }


def round_of(python: Path, module: str, task: dict[str, Any], folder: Path) -> tuple[dict[str, Any], list[Any]]:
    """What a client found on a fresh server, and the digests of its training requests there."""
    folder.mkdir()
    (folder / "task.json").write_text(json.dumps(task))
    with DevServer(folder / "state", seed=3) as server:
        done = subprocess.run(
            [python, HERE / "image_round.py", module, server.url, folder / "task.json"],
            env=os.environ | {"TINKER_TELEMETRY": "0", "HF_HUB_OFFLINE": "1"}, cwd=HERE.parents[1],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        return json.loads(done.stdout), digests(server)


def digests(server: DevServer) -> list[Any]:
    """The training requests of a server, in order."""
    return [(entry["kind"], entry["digest"]) for entry in server.log() if entry["kind"] in PASSES]


def test_an_image_is_the_same_example_and_prompt_for_the_sdk(
    provided: Any, task: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digests of the requests, the losses, the samples and the scores; a job of ours has them too."""
    theirs, their_requests = round_of(provided(NEWEST), "tinker", task, tmp_path / "theirs")
    ours, our_requests = round_of(Path(sys.executable), "backends.tinkex", task, tmp_path / "ours")
    assert theirs == ours
    assert their_requests == our_requests
    assert len(our_requests) == 4
    assert theirs["losses"][0] > theirs["losses"][1]

    with DevServer(tmp_path / "job", seed=3) as server, isolated_store():
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        handle = submit(Job(kind="training_step", backend="tinkex", payload=payload(tmp_path)))
        run_jobs()
        result = handle.result(timeout=60)
        assert digests(server) == their_requests
        trained = sum(task["weights"])
        sums = [step.loss * trained for step in handle.steps()]
        assert sums == pytest.approx(theirs["losses"], rel=1e-6)
        options = {
            "model": result["model"],
            "max_tokens": 8,
            "seed": 5,
            "temperature": 1.0,
            "n": 2,
            "logprobs": True,
        }
        prompt = Prompt.model_validate({"messages": ROW["messages"][:1], "options": options})
        with connect("tinkex") as backend:
            choices = backend.complete(prompt).choices
        answers = [[item.logprob for item in choice.logprobs or ()] for choice in choices]
        assert all(answers)
        assert answers == [logprobs for _, logprobs in theirs["samples"]]


def test_another_image_is_another_request(provided: Any, task: dict[str, Any], tmp_path: Path) -> None:
    """So that equal digests and losses say something."""
    python = provided(NEWEST)
    found, requests = round_of(python, "tinker", task, tmp_path / "one")
    task["image"]["data"] = base64.b64encode(png(60, 30, 8)).decode()
    other, other_requests = round_of(python, "tinker", task, tmp_path / "other")
    assert requests[0] != other_requests[0]
    assert found["losses"] != other["losses"]
    assert found["scored"] != other["scored"]
