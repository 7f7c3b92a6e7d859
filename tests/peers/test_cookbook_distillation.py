"""Off-policy distillation: the losses of our job are those of the cookbook's own loop on the official SDK."""

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
from crucible.backend import TrainingBackend
from crucible.losses import TARGETS
from nsai_work.payloads import JobKind, parse_payload
from nsai_work.training.sources.data_source import open_batches
from tests.integration.training.harness import Scene, payload_of

STEPS, RATE, RANK, TOP_K = 20, 0.001, 4, 5
STUDENT, TEACHER = "llama-3.2-1b", "llama-3.2-3b"


def test_the_first_20_losses_are_those_of_the_cookbook(provided: Any, tmp_path: Path) -> None:
    """With the same examples in the same order, and the same seed of the adapter."""
    python = provided("cookbook")
    base = payload_of(tmp_path).model_dump(mode="json", exclude_unset=True)
    fields = {"method": "distill", "base_model": STUDENT, "teacher": TEACHER, "top_k": TOP_K, "max_steps": STEPS}
    settings = {"lora": {"rank": RANK, "seed": 7}, "optimizer": {"learning_rate": RATE}, "batch_size": 2}
    payload = parse_payload(JobKind.TRAINING_STEP, base | fields | settings)
    with DevServer(tmp_path / "server", seed=3) as server:

        def new_backend() -> TinkexBackend:
            return TinkexBackend({"base_url": server.url, "api_key": DEV_KEY})

        scene = Scene(payload, new_backend=new_backend)  # type: ignore[arg-type]
        asyncio.run(scene.drive())
        batches = asyncio.run(_batches(payload, new_backend()))
        given = {"student": STUDENT, "teacher": TEACHER, "top_k": TOP_K, "rate": RATE, "rank": RANK, "seed": 7}
        file = tmp_path / "settings.json"
        file.write_text(json.dumps({**given, "log": str(tmp_path / "log"), "batches": batches}))
        service_at = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY, "TINKER_TELEMETRY": "0"}
        ended = subprocess.run(
            [python, HERE / "cookbook_off_policy.py", file],
            env={**os.environ, **service_at, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
            cwd=tmp_path, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-4000:]
    rows = [json.loads(line) for line in (tmp_path / "log" / "metrics.jsonl").read_text().splitlines()]
    theirs = [row["train/loss:sum"] for row in rows if "train/loss:sum" in row]
    trained = [sum(sum(weights) for _, _, weights in batch) for batch in batches]

    assert len(theirs) == STEPS
    assert scene.losses == pytest.approx(
        [loss / count for loss, count in zip(theirs, trained, strict=True)], rel=1e-6
    )
    assert scene.losses[-1] < scene.losses[0]


async def _batches(payload: Any, backend: TrainingBackend) -> list[list[tuple[list[int], list[int], list[float]]]]:
    """The examples of each step: tokens, targets and weights."""

    async def wait(work: Any) -> Any:
        return await work

    async with backend:
        plan, source, _, _ = await open_batches(payload, backend, wait)  # type: ignore[arg-type]
        batches = [await source.batch(step) for step in range(1, plan.total_steps + 1)]
    return [
        [([*one.tokens], [*one.loss_inputs[TARGETS]], [*one.loss_inputs["weights"]]) for one in batch.datums]
        for batch in batches
    ]
