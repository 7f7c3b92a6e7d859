"""On-policy distillation of the recipe families and the cookbook's loops on the same prompts: equal losses."""

import json
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from provision import HERE
from recipes import MODEL
from test_cookbook_recipes import environment_of
from test_cookbook_rollouts import losses_of

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import JobHandle, submit_many
from nsai_work.client.jobfile import load_jobs
from nsai_work.payloads import ReinforcementStep
from nsai_work.testing import isolated_store, run_jobs
from nsai_work.training.rollouts.reference import KL_REFERENCE
from tests.families.rows import write_rows
from tests.families.small_jobs import small_jobs
from tests.families.table import COMPARED_TEACHERS, ENTRY_POINTS

STEPS, RATE, RANK, TOKENS = 10, 0.01, 8, 8
SEED = 2
"""A seed with which the sources of two prompts come in their order in every step. The cookbook puts the groups of a
step in that order, and a sum in 32 bits depends on it."""


@pytest.mark.parametrize("name", COMPARED_TEACHERS)
def test_ten_steps_of_a_family_are_those_of_the_cookbook(name: str, provided: Any, tmp_path: Path) -> None:
    """On one server, one after the other: each job of the family, from the state that it begins with."""
    python = provided("cookbook")
    write_rows(tmp_path)
    [entry] = [each for each in ENTRY_POINTS if each.name == name]
    with DevServer(tmp_path / "server", seed=3) as server:
        jobs = [{**job, "payload": small(job["payload"])} for job in small_jobs(entry, tmp_path)]
        given = [settings_of(*each, tmp_path) for each in finished(server, jobs, tmp_path)]
        losses = losses_of(server)
        begin, theirs = None, []
        for each in given:
            theirs += run_cookbook(python, server, tmp_path, each | {"from": begin})
            begin = json.loads((tmp_path / "log" / "checkpoints.jsonl").read_text().splitlines()[-1])["state_path"]
        own = losses_of(server)[len(losses) :]

    assert len(losses) == len(own) == STEPS * len(given)
    assert len(set(losses)) > STEPS // 2
    assert own == pytest.approx(losses, rel=1e-6, abs=1e-6)
    distances = [distance for each in given for distance in each["distances"]]
    # a sum in 32 bits there
    assert [row["teacher_kl"] for row in theirs if "teacher_kl" in row] == pytest.approx(distances, abs=1e-5)


def small(payload: dict[str, Any]) -> dict[str, Any]:
    """The payload of a job of a family with the loop's settings."""
    return payload | {
        "base_model": MODEL,
        "max_steps": STEPS,
        "groups_per_step": 2,
        "group_size": min(payload["group_size"], 2),
        "sampling": payload["sampling"] | {"max_tokens": TOKENS},
        "eval": None,
        "epochs": None,
        "seed": SEED,
        "lora": {"rank": RANK, "seed": SEED},
        "optimizer": {"learning_rate": RATE, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    }


def finished(
    server: DevServer, jobs: Sequence[dict[str, Any]], folder: Path
) -> list[tuple[ReinforcementStep, list[list[int]], list[float]]]:
    """The payloads of jobs that have run, the tasks of each step's groups, and the distances from the teachers."""
    file = folder / "jobs.yaml"
    file.write_text(yaml.safe_dump(list(jobs)))
    with isolated_store(python_allow="tests"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", server.url)
        patch.setenv("TINKER_API_KEY", DEV_KEY)
        handles = submit_many(load_jobs(file))
        run_jobs(timeout_s=300)
        return [_outcome(handle) for handle in handles]


def _outcome(handle: JobHandle) -> tuple[ReinforcementStep, list[list[int]], list[float]]:
    job = handle.job()
    assert job.status == "succeeded", job.error
    payload = job.parsed_payload
    assert isinstance(payload, ReinforcementStep)
    records = handle.rollouts()
    # the last step of an epoch may have fewer groups
    found = [{one.group: one.task for one in records if one.step == step} for step in range(1, STEPS + 1)]
    tasks = [[groups[number] for number in sorted(groups)] for groups in found]
    return payload, tasks, [step.metrics[KL_REFERENCE] for step in handle.steps() if KL_REFERENCE in step.metrics]


def settings_of(
    payload: ReinforcementStep, tasks: list[list[int]], distances: list[float], folder: Path
) -> dict[str, Any]:
    """The settings of the cookbook's loop that say the same as a job."""
    [tokenizer] = (folder / "server" / "tokenizers").glob("*/*")
    given: dict[str, Any] = {
        "model": MODEL, "tokenizer": str(tokenizer), "rank": RANK, "rate": RATE, "seed": SEED,
        "size": payload.group_size, "tokens": payload.sampling.max_tokens, "log": str(folder / "log"),
        "turns": payload.sampling.limits.turns, "tasks": tasks, "distances": distances,
    }  # fmt: skip
    rows = [
        [json.loads(line) for line in (folder / Path(str(file.path)).name).read_text().splitlines()]
        for file in payload.data.files()
    ]
    if payload.environment is None:
        given["rows"] = [row for part in rows for row in part]
    else:
        given["environment"] = payload.environment.model_dump(mode="json")
    if payload.kl is not None:
        known = [number for number, part in enumerate(rows) for _ in part]
        given |= {"teachers": payload.references(), "sources": known or [0] * 1_000}
        given |= {"coef": payload.kl.coef, "discount": payload.kl.discount}
    if payload.teacher is not None:
        given |= {"top_k": payload.teacher.top_k, "template": payload.teacher.prompt, "context": payload.max_tokens}
    return given


def run_cookbook(python: Path, server: DevServer, folder: Path, given: dict[str, Any]) -> list[dict[str, Any]]:
    """The metrics of each step."""
    settings = folder / "settings.json"
    settings.write_text(json.dumps(given))
    shutil.rmtree(given["log"], ignore_errors=True)
    ended = subprocess.run(
        [python, HERE / "cookbook_distill.py", settings],
        env=environment_of(os.environ, server, folder),
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    return [json.loads(line) for line in Path(given["log"], "metrics.jsonl").read_text().splitlines()]
