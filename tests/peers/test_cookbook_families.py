"""Jobs of the recipe families and the cookbook's loop on the same environments: equal advantages and losses."""

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
from test_cookbook_rollouts import losses_of

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, submit
from nsai_work.payloads import ReinforcementStep
from nsai_work.testing import isolated_store, run_jobs
from nsai_work.training.rollouts.examples import advantages
from tests.families import verifiers_stub
from tests.families.rows import write_rows
from tests.families.small_jobs import small_jobs
from tests.families.table import COMPARED_ROLLOUTS, ENTRY_POINTS

STEPS, SEED, RATE, RANK = 10, 5, 0.01, 8


@pytest.mark.parametrize("name", COMPARED_ROLLOUTS)
def test_ten_steps_of_a_family_are_those_of_the_cookbook(name: str, provided: Any, tmp_path: Path) -> None:
    """On one server, one after the other, with the loss of the family."""
    python = provided("cookbook")
    write_rows(tmp_path)
    [entry] = [each for each in ENTRY_POINTS if each.name == name]
    [job] = small_jobs(entry, tmp_path)
    with DevServer(tmp_path / "server", seed=3) as server:
        ours, tasks, payload = run_job(server, job["payload"], tmp_path)
        losses = losses_of(server)
        theirs = run_cookbook(python, server, tmp_path, payload, tasks)
        own = losses_of(server)[len(losses) :]

    assert len(losses) == len(own) == STEPS
    assert any(any(map(any, groups)) for groups in theirs), "no step had anything to learn"
    for mine, recipe in zip(ours, theirs, strict=True):
        for group, expected in zip(mine, recipe, strict=True):
            assert group == pytest.approx(expected, abs=1e-6)
    assert own == pytest.approx(losses, rel=1e-6, abs=1e-6)


def run_job(
    server: DevServer, small: dict[str, Any], packages: Path
) -> tuple[list[list[Sequence[float]]], list[list[int]], ReinforcementStep]:
    """A job of a family with the loop's settings: the advantages and the tasks of each step's groups."""
    changes = {
        "base_model": MODEL,
        "max_steps": STEPS,
        # of the rows there are three times as many
        "groups_per_step": 3,
        # a mean of these is exact in 32 bits too
        "group_size": 2 if small["group_size"] == 2 else 4,
        "eval": None,
        "epochs": None,
        "seed": SEED,
        "advantage": {"drop_constant": False},
        "lora": {"rank": RANK, "seed": SEED},
        "optimizer": {"learning_rate": RATE, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    }
    with isolated_store(python_allow="tests"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", server.url)
        patch.setenv("TINKER_API_KEY", DEV_KEY)
        patch.syspath_prepend(str(verifiers_stub.install(packages)))
        handle = submit(Job.parse({"kind": "training_step", "backend": "tinkex", "payload": small | changes}))
        run_jobs(timeout_s=300)
        job = handle.job()
        assert job.status == "succeeded", job.error
        records = handle.rollouts()
    payload = job.parsed_payload
    assert isinstance(payload, ReinforcementStep)
    found, tasks = [], []
    for step in range(1, STEPS + 1):
        own = [record for record in records if record.step == step]
        groups = [[one for one in own if one.group == group] for group in range(payload.groups_per_step)]
        found.append([advantages([float(one.reward or 0.0) for one in group], payload) for group in groups])
        tasks.append([group[0].task for group in groups])
    return found, tasks, payload


def run_cookbook(
    python: Path, server: DevServer, folder: Path, payload: ReinforcementStep, tasks: list[list[int]]
) -> list[list[list[float]]]:
    """The advantages of each step's groups."""
    [tokenizer] = (folder / "server" / "tokenizers").glob("*/*")
    assert payload.environment is not None
    given: dict[str, Any] = {
        "model": MODEL, "tokenizer": str(tokenizer), "rank": RANK, "rate": RATE, "seed": SEED,
        "loss": payload.loss_fn, "size": payload.group_size, "tokens": payload.sampling.max_tokens,
        "turns": payload.sampling.limits.turns, "log": str(folder / "log"), "tasks": tasks,
    }  # fmt: skip
    if payload.environment.reward is None:
        given["environment"] = payload.environment.model_dump(mode="json")
        if payload.environment.name == "verifiers":
            # our package is on the path there, and not installed
            given["environment"]["name"] = "crucible.environments.verifiers:VerifiersEnvironment"
    else:
        [file] = payload.data.files()
        rows = [json.loads(line) for line in (folder / Path(str(file.path)).name).read_text().splitlines()]
        given |= {"reward": payload.environment.reward, "rows": rows}
    environment = environment_of(os.environ, server, folder)
    environment["PYTHONPATH"] += os.pathsep + str(verifiers_stub.install(folder))
    settings, out = folder / "settings.json", folder / "advantages.json"
    settings.write_text(json.dumps(given))
    ended = subprocess.run(
        [python, HERE / "cookbook_rl.py", settings, out],
        env=environment,
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: list[list[list[float]]] = json.loads(out.read_text())
    return found
