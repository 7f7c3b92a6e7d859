"""Decisions with a Brier loss: the losses of our job are those of the cookbook's own loss on the official SDK."""

import asyncio
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision import HERE

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DEV_KEY, DevServer
from crucible.losses import TARGETS, targets_per_token
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.training.sources.data_source import open_batches
from tests.integration.training.harness import Scene

STEPS, RATE, RANK, MODEL = 10, 0.003, 4, "llama-3.2-1b"


def test_the_first_10_losses_are_those_of_the_cookbook(provided: Any, tmp_path: Path) -> None:
    """With the same choices in the same order, and the same seed of the adapter."""
    python = provided("cookbook")
    path = tmp_path / "outcomes.jsonl"
    rows = [
        {"prompt": f"Market {n}?", "prefill": "choice#", "choices": {"Y": n % 3 / 2, "N": 1 - n % 3 / 2}}
        for n in range(12)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    optimizer = {"learning_rate": RATE, "beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
    fields = {"base_model": MODEL, "data": {"path": str(path)}, "objective": {"name": "brier"}, "batch_size": 4}
    payload = parse_payload(
        JobKind.TRAINING_STEP,
        {**fields, "lora": {"rank": RANK, "seed": 7}, "optimizer": optimizer, "max_steps": STEPS},
    )
    with DevServer(tmp_path / "server", seed=3) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": DEV_KEY})

        scene = Scene(payload, new_backend=new_backend)  # type: ignore[arg-type]
        asyncio.run(scene.drive())
        given = {"model": MODEL, "rate": RATE, "rank": RANK, "seed": 7}
        file, out = tmp_path / "settings.json", tmp_path / "losses.json"
        file.write_text(json.dumps({**given, "batches": asyncio.run(_batches(payload, new_backend()))}))
        service_at = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY, "TINKER_TELEMETRY": "0"}
        ended = subprocess.run(
            [python, HERE / "cookbook_decisions.py", file, out],
            env={**os.environ, **service_at, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    theirs = json.loads(out.read_text())

    assert len(theirs) == STEPS
    assert scene.losses == pytest.approx(theirs, abs=1e-6)
    assert scene.losses[-1] < scene.losses[0]


async def _batches(payload: Any, backend: TinkexBackend) -> list[list[Any]]:
    """The examples of each step: tokens, targets, weights, and how many targets a token has."""

    async def wait(work: Any) -> Any:
        return await work

    async with backend:
        plan, source, _, _ = await open_batches(payload, backend, wait)  # type: ignore[arg-type]
        batches = [await source.batch(step) for step in range(1, plan.total_steps + 1)]
    return [
        [
            ([*one.tokens], [*one.loss_inputs[TARGETS]], [*one.loss_inputs["weights"]], targets_per_token(one))
            for one in batch.datums
        ]
        for batch in batches
    ]
