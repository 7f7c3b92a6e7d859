"""Our whole product on a server that others wrote: a job is killed, restored, and its resume proven."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from foreign import Served
from plan import TEXTS
from provision import HERE

STEPS, SAVE_EVERY, DIES_AFTER = 16, 6, 8


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Conversations to train on."""
    rows = []
    for text in TEXTS:
        question, answer = text.removeprefix("user: ").split("\nassistant: ")
        turns = [("user", question), ("assistant", answer)]
        rows.append({"messages": [{"role": role, "content": content} for role, content in turns]})
    file = tmp_path / "conversations.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_a_killed_job_is_restored_and_equals_one_left_alone(
    skyrl: Served, provided: Any, data: Path, tmp_path: Path
) -> None:
    """SkyRL 0.3.0 runs a repeated seq_id again, may run an optimizer step before the gradients that were sent ahead
    of it, and gives the place of a freed model away with the gradients in it. In spite of all that the killed run
    ends with the losses of an undisturbed one, bit for bit, and the repeated steps prove the resume exact."""
    task = {
        "transformers": str(site_packages(provided("skyrl"))),
        "payload": {
            "base_model": skyrl.base_model,
            "data": {"path": str(data)},
            "lora": {"rank": 8, "seed": 7},
            "optimizer": {"learning_rate": 0.05, "eps": 1e-8},
            "batch_size": 2,
            "max_steps": STEPS,
            "checkpoint_policy": {"strategy": "steps", "save_every": SAVE_EVERY},
        },
    }

    died = work(skyrl, tmp_path / "killed", task | {"die_after": DIES_AFTER})
    done = work(skyrl, tmp_path / "killed", task | {"die_after": 0})
    alone = work(skyrl, tmp_path / "alone", task | {"die_after": 0})

    assert died.returncode == -signal.SIGKILL, died.stderr[-4000:]
    assert done.returncode == 0, done.stderr[-4000:]
    assert alone.returncode == 0, alone.stderr[-4000:]
    found, undisturbed = (json.loads(process.stdout.splitlines()[-1]) for process in (done, alone))
    shown = [event for event in found["events"] if event["name"] in ("resume.verified", "resume.cold")]
    print("\nSkyRL 0.3.0, resumed:", found["result"]["resume"], shown)  # noqa: T201
    assert found["result"]["recoveries"] == 1
    assert found["result"]["lineage"][1]["from_step"] == SAVE_EVERY
    [proof] = shown
    assert (found["result"]["resume"], proof["name"]) == ("exact", "resume.verified")
    assert proof["data"]["step"] == SAVE_EVERY + 2
    assert undisturbed["result"]["recoveries"] == 0
    assert len(found["losses"]) == STEPS
    assert found["losses"] == undisturbed["losses"]


def site_packages(python: Path) -> Path:
    """Where an environment keeps its packages."""
    [folder] = python.parents[1].glob("lib/python*/site-packages")
    return folder


def work(served: Served, folder: Path, task: dict[str, Any]) -> "subprocess.CompletedProcess[str]":
    """Run the job's process to its end, or to its death."""
    folder.mkdir(exist_ok=True)
    task_file = folder / "task.json"
    task_file.write_text(json.dumps(task))
    environment = {"TINKER_BASE_URL": served.url, "TINKER_API_KEY": served.key, "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, HERE / "product_job.py", folder / "home", task_file],
        env=os.environ | environment, cwd=HERE.parents[1], capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
