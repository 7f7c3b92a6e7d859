"""The cookbook's ``math_rl`` and a job of ours with the same seeds, data and renderer: equal advantages, losses."""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from provision import HERE
from recipes import MODEL
from test_cookbook_recipes import environment_of

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, submit
from nsai_work.payloads import ReinforcementStep
from nsai_work.testing import isolated_store, run_jobs
from nsai_work.training.rollouts.examples import advantages

STEPS, GROUPS, SIZE, SEED, RATE = 10, 3, 4, 5, 0.01


@pytest.mark.parametrize("loss_fn", ["importance_sampling", "ppo"])
def test_ten_steps_are_those_of_the_cookbook(loss_fn: str, provided: Any, tmp_path: Path) -> None:
    """On one server, one after the other."""
    python = provided("cookbook")
    with DevServer(tmp_path / "server", seed=3) as server:
        theirs = run_cookbook(python, server, tmp_path, loss_fn)
        losses = losses_of(server)
        ours = run_job(server, loss_fn)
        own = losses_of(server)[len(losses) :]

    assert len(losses) == len(own) == STEPS
    assert any(any(map(any, groups)) for groups in theirs), "no step had anything to learn"
    for mine, recipe in zip(ours, theirs, strict=True):
        for group, expected in zip(mine, recipe, strict=True):
            assert group == pytest.approx(expected, abs=1e-6)
    # they are near 0, whatever is learned: it is their bits that are equal
    assert own == losses


def run_cookbook(python: Path, server: DevServer, folder: Path, loss_fn: str) -> list[list[list[float]]]:
    """The advantages of each step's groups."""
    [tokenizer] = (folder / "server" / "tokenizers").glob("*/*")
    settings = {
        "env": "arithmetic", "model_name": MODEL, "renderer_name": "own", "log_path": folder / "log",
        "group_size": SIZE, "groups_per_batch": GROUPS, "max_tokens": 4, "learning_rate": RATE,
        "loss_fn": loss_fn, "eval_every": 0, "save_every": 0, "max_steps": STEPS, "lora_rank": 8,
        "behavior_if_log_dir_exists": "delete",
    }  # fmt: skip
    command = [python, HERE / "cookbook_math_rl.py", tokenizer, MODEL, SEED, GROUPS, SIZE, folder / "advantages"]
    environment = environment_of(os.environ, server, folder)
    environment["PYTHONPATH"] += os.pathsep + str(HERE)
    ended = subprocess.run(
        [*map(str, command), *(f"{name}={value}" for name, value in settings.items())],
        env=environment, cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: list[list[list[float]]] = json.loads((folder / "advantages").read_text())
    return found


def run_job(server: DevServer, loss_fn: str) -> list[list[Sequence[float]]]:
    """The same as a job, with the recipe's optimizer."""
    payload = {
        "method": "rl",
        "base_model": MODEL,
        "environment": {"name": "arithmetic:Arithmetic", "args": {"groups": GROUPS}},
        "groups_per_step": GROUPS,
        "group_size": SIZE,
        "sampling": {"max_tokens": 4},
        "advantage": {"drop_constant": False},
        "loss_fn": loss_fn,
        "optimizer": {"learning_rate": RATE, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
        "lora": {"rank": 8, "seed": SEED},
        "seed": SEED,
        "max_steps": STEPS,
    }
    with isolated_store(python_allow="arithmetic") as store, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", server.url)
        patch.setenv("TINKER_API_KEY", DEV_KEY)
        handle = submit(Job.parse({"kind": "training_step", "backend": "tinkex", "payload": payload}))
        run_jobs(timeout_s=300)
        job = handle.job()
        assert job.status == "succeeded", job.error
        assert store.jobs()
        records = handle.rollouts()
    found = []
    for step in range(1, STEPS + 1):
        rewards = [float(record.reward or 0) for record in records if record.step == step]
        groups = [rewards[start : start + SIZE] for start in range(0, len(rewards), SIZE)]
        found.append([advantages(group, payload_of(job)) for group in groups])
    return found


def payload_of(job: Job) -> ReinforcementStep:
    """The payload of a job of reinforcement learning."""
    assert isinstance(job.parsed_payload, ReinforcementStep)
    return job.parsed_payload


def losses_of(server: DevServer) -> list[float]:
    """The sums over the tokens of all training passes, from the server's log."""
    return [float(entry["loss"]) for entry in server.log(kind="forward_backward")]
