"""The pipeline of preferences: fine-tuning, a reward model, and a tournament that it judges, as in the cookbook."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from provision import HERE
from recipes import MODEL
from test_cookbook_recipes import environment_of

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import JobHandle, submit_many
from nsai_work.client.jobfile import load_jobs
from nsai_work.payloads import JobKind, ReinforcementStep, parse_payload
from nsai_work.testing import isolated_store, run_jobs
from nsai_work.training.rollouts.examples import advantages
from nsai_work.training.sources.data_source import open_batches
from tests.families.rows import write_rows
from tests.families.small_jobs import small_jobs
from tests.families.table import COMPARED_PIPELINE, ENTRY_POINTS

STEPS, SEED, RATE, RANK, GROUPS, SIZE, TOKENS = 10, 5, 0.01, 8, 3, 4, 8


def test_the_stages_are_those_of_the_cookbook(provided: Any, tmp_path: Path) -> None:
    """On one server, one after the other: the losses of all three, and the advantages of the last."""
    python = provided("cookbook")
    write_rows(tmp_path)
    [entry] = [each for each in ENTRY_POINTS if each.name == COMPARED_PIPELINE]
    jobs = [{**job, "payload": job["payload"] | _changes(job["payload"])} for job in small_jobs(entry, tmp_path)]
    (tmp_path / "jobs.yaml").write_text(yaml.safe_dump(jobs))
    with DevServer(tmp_path / "server", seed=3) as server:
        ours, tasks = run_pipeline(server, tmp_path / "jobs.yaml")
        losses = losses_by_run(server)
        [tokenizer] = (tmp_path / "server" / "tokenizers").glob("*/*")
        given = {
            "model": MODEL, "tokenizer": str(tokenizer), "seed": SEED, "rank": RANK, "rate": RATE,
            "log": str(tmp_path / "log"), "size": SIZE, "tokens": TOKENS, "tasks": tasks,
            "texts": asyncio.run(rows_of(server, jobs[0]["payload"])),
            "comparisons": asyncio.run(rows_of(server, jobs[1]["payload"])),
        }  # fmt: skip
        theirs = run_cookbook(python, server, tmp_path, given)
        own = losses_by_run(server)[len(losses) :]

    assert [len(each) for each in own] == [STEPS] * 3
    assert any(any(map(any, groups)) for groups in theirs), "no step had anything to learn"
    for mine, recipe in zip(ours, theirs, strict=True):
        for group, expected in zip(mine, recipe, strict=True):
            assert group == pytest.approx(expected, abs=1e-6)
    # the first two of ours run side by side
    for mine, expected in zip(sorted(losses), sorted(own), strict=True):
        assert expected == pytest.approx(mine, rel=1e-6, abs=1e-6)


def losses_by_run(server: DevServer) -> list[list[float]]:
    """The losses of all training passes by run, in the order in which these began."""
    found: dict[str, list[float]] = {}
    for entry in server.log(kind="forward_backward"):
        found.setdefault(str(entry["model_id"]), []).append(float(entry["loss"]))
    return list(found.values())


def _changes(payload: dict[str, Any]) -> dict[str, Any]:
    changes: dict[str, Any] = {
        "base_model": MODEL,
        "max_steps": STEPS,
        "eval": None,
        "seed": SEED,
        "lora": {"rank": RANK, "seed": SEED},
        "optimizer": {"learning_rate": RATE, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8},
    }
    if payload.get("method") != "rl":
        return changes
    # of rewards that are all equal nothing is learned, and the cookbook trains on them
    sampling = {"groups_per_step": GROUPS, "group_size": SIZE, "sampling": {"max_tokens": TOKENS}}
    return changes | sampling | {"advantage": {"drop_constant": False}}


def run_pipeline(server: DevServer, file: Path) -> tuple[list[list[Any]], list[list[int]]]:
    """The advantages and the tasks of each step's groups, in the last of the jobs."""
    with isolated_store(python_allow="tests"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINKER_BASE_URL", server.url)
        patch.setenv("TINKER_API_KEY", DEV_KEY)
        handles = submit_many(load_jobs(file))
        run_jobs(timeout_s=300)
        for handle in handles:
            assert handle.job().status == "succeeded", handle.job().error
        return _rollouts(handles[-1])


def _rollouts(handle: JobHandle) -> tuple[list[list[Any]], list[list[int]]]:
    payload, records = handle.job().parsed_payload, handle.rollouts()
    assert isinstance(payload, ReinforcementStep)
    found, tasks = [], []
    for step in range(1, STEPS + 1):
        groups = [[one for one in records if (one.step, one.group) == (step, group)] for group in range(GROUPS)]
        found.append([advantages([float(one.reward or 0.0) for one in group], payload) for group in groups])
        tasks.append([group[0].task for group in groups])
    return found, tasks


async def rows_of(server: DevServer, settings: dict[str, Any]) -> list[list[Any]]:
    """The rows of each step of a job."""
    payload: Any = parse_payload(JobKind.TRAINING_STEP, settings)
    rows = [json.loads(line) for line in (await asyncio.to_thread(Path(payload.data.path).read_text)).splitlines()]

    async def wait(work: Any) -> Any:
        return await work

    async with TinkexBackend({"base_url": server.url, "api_key": DEV_KEY}) as backend:
        plan, source, _, _ = await open_batches(payload, backend, wait)  # type: ignore[arg-type]
        batches = [await source.batch(step) for step in range(1, plan.total_steps + 1)]
    return [[rows[line - 1] for line in batch.lines] for batch in batches]


def run_cookbook(python: Path, server: DevServer, folder: Path, given: dict[str, Any]) -> list[list[list[float]]]:
    """The advantages of each step's groups."""
    settings, out = folder / "settings.json", folder / "advantages.json"
    settings.write_text(json.dumps(given))
    ended = subprocess.run(
        [python, HERE / "cookbook_rlhf.py", settings, out],
        env=environment_of(os.environ, server, folder),
        cwd=folder, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    found: list[list[list[float]]] = json.loads(out.read_text())
    return found
