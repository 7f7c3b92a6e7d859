"""Supervised jobs of the recipe families and the cookbook's loop on the same batches: equal losses."""

import asyncio
import json
import os
import subprocess
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
from provision import HERE
from recipes import MODEL
from test_cookbook_recipes import environment_of

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.losses import TARGETS, targets_per_token
from crucible.training import Datum, RunSpec
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.training.sources.data_source import open_batches
from nsai_work.training.sources.preference import METRICS, ReferenceContext
from tests.families.rows import write_rows
from tests.families.small_jobs import small_jobs
from tests.families.table import COMPARED_TEXTS, ENTRY_POINTS
from tests.integration.training.harness import Scene

STEPS, RATE, RANK, SEED = 10, 0.01, 4, 7
SUMS = ("preference.dpo.train", "vlm_classifier.train", "vlm_classifier.sweep", "decisions.demo")
"""The recipes that keep the loss weights of an example; the others make them by ``conversation_to_datum``, which
divides them by their sum."""


@pytest.mark.parametrize("name", COMPARED_TEXTS)
def test_the_first_10_losses_of_a_family_are_those_of_the_cookbook(
    name: str, provided: Any, tmp_path: Path
) -> None:
    """With the schedule, the optimizer and the trained tokens of the family."""
    python = provided("cookbook")
    write_rows(tmp_path)
    [entry] = [each for each in ENTRY_POINTS if each.name == name]
    job = small_jobs(entry, tmp_path)[-1]
    changes: dict[str, Any] = {"base_model": MODEL, "max_steps": STEPS, "eval": None}
    changes["lora"], changes["seed"] = {"rank": RANK, "seed": SEED}, SEED
    changes["optimizer"] = job["payload"]["optimizer"] | {"learning_rate": RATE}
    if "job" in job["payload"]["data"]:
        # what a teacher has answered
        kept = {name: value for name, value in job["payload"]["data"].items() if name not in ("job", "map")}
        changes["data"] = {**kept, "path": str(tmp_path / "conversations.jsonl")}
    payload = parse_payload(JobKind.TRAINING_STEP, job["payload"] | changes)
    with DevServer(tmp_path / "server", seed=3) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": DEV_KEY})

        scene = Scene(payload, new_backend=new_backend)  # type: ignore[arg-type]
        asyncio.run(scene.drive())
        batches = asyncio.run(_batches(scene, new_backend()))
        given = {"model": MODEL, "rate": RATE, "rank": RANK, "seed": SEED, "log": str(tmp_path / "log")}
        given |= {"schedule": str(payload.schedule.shape), "beta": getattr(payload, "beta", None)}  # type: ignore[attr-defined]
        given["reduction"] = "none" if name in SUMS else "mean"
        settings = tmp_path / "settings.json"
        settings.write_text(json.dumps({**given, "batches": batches}))
        ended = subprocess.run(
            [python, HERE / "cookbook_texts.py", settings],
            env=environment_of(os.environ, server, tmp_path),
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    metric = "dpo_loss" if "beta" in job["payload"] else "train_mean_nll"
    theirs = [row[metric] for row in rows if metric in row]

    assert len(theirs) == STEPS
    assert scene.losses == pytest.approx(theirs, rel=1e-6)
    assert scene.losses[-1] < scene.losses[0]
    if "beta" in job["payload"]:
        for step, row in zip(scene.journal.steps, rows, strict=True):
            assert {name: step.metrics[name] for name in METRICS} == pytest.approx(
                {name: row[name] for name in METRICS}, abs=1e-6
            )


async def _batches(scene: Scene, backend: TinkexBackend) -> list[list[list[Any]]]:
    """The examples of each step: tokens, targets, which of those are trained, and images."""
    payload: Any = scene.payload

    async def wait(work: Any) -> Any:
        return await work

    async with backend:
        plan, source, _, reference = await open_batches(payload, backend, wait)  # type: ignore[arg-type]
        if reference is not None:
            # the job has kept it
            kept: Any = scene.claim()
            spec = RunSpec(base_model=payload.base_model)
            await reference.complete(ReferenceContext(payload, spec, backend, kept, wait))
        batches = [await source.batch(step) for step in range(1, plan.total_steps + 1)]
    return [[_given(datum) for datum in batch.datums] for batch in batches]


def _given(datum: Datum) -> list[Any]:
    targets, weights = datum.loss_inputs[TARGETS], datum.loss_inputs["weights"]
    count = targets_per_token(datum)
    # of the choices that a token has, the one with a weight
    places = [max(range(at, at + count), key=weights.__getitem__) for at in range(0, len(targets), count)]
    trained = [float(weights[place] > 0) for place in places]
    return [[*datum.tokens], [targets[place] for place in places], trained, _images(datum)]


def _images(datum: Datum) -> list[list[Any]]:
    return [[each.place, each.length, each.format, b64encode(each.data).decode()] for each in datum.images]
