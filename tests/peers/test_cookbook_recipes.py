"""Recipes of the official cookbook, unchanged: with the official SDK, and under our shim with equal metrics."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from provision import HERE
from recipes import HUB_MODEL, MODEL, RECIPES, STEPS, write_data

from backends.tinkex.shim_command import shim_environment
from backends.tinkex_dev.api import sessions
from backends.tinkex_dev.server import DEV_KEY, DevServer
from backends.tinkex_dev.service import service

TIMES = ("time", "sec", "tokens_per", "duration")
"""Parts of the names of metrics that are times."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_same_metrics_on_the_sdk_and_under_the_shim(
    recipe: str, provided: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every metric of every step but times, digit for digit."""
    models = (*service.BASE_MODELS, HUB_MODEL)
    for module in (service, sessions):
        monkeypatch.setattr(module, "BASE_MODELS", models)
    python = provided("cookbook")

    theirs = metrics_of(python, recipe, tmp_path / "sdk", os.environ)
    ours = metrics_of(python, recipe, tmp_path / "shim", shim_environment(os.environ))

    assert len(theirs) >= STEPS
    assert len(theirs[0]) > 1
    assert ours == theirs


def metrics_of(python: Path, recipe: str, folder: Path, environment: Any) -> list[dict[str, Any]]:
    """Run a recipe on a server of its own; returns the rows of metrics, without times."""
    write_data(folder)
    log = folder / "log"
    module, *arguments = RECIPES[recipe]
    # the shim's program finds our packages in the repository, and what they need in its environment
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(HERE.parents[1])]))
    with DevServer(folder / "server", seed=3) as server:
        [tokenizer] = (folder / "server" / "tokenizers").glob("*/*")
        model = HUB_MODEL if recipe == "rl_loop" else MODEL
        command = [python, HERE / "cookbook_recipe.py", tokenizer, model, module]
        command += [f"model_name={model}", f"log_path={log}", f"base_url={server.url}", *arguments]
        offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
        address = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY, "TINKER_TELEMETRY": "0"}
        done = subprocess.run(
            command, env={**environment, **offline, **address, "PYTHONPATH": path},
            cwd=folder, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    rows = [json.loads(line) for line in (log / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not any(part in key for part in TIMES)} for row in rows]
