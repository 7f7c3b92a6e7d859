"""Recipes of the official cookbook, unchanged: with the official SDK, and under our shim with equal metrics."""

import json
import os
import subprocess
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import pytest
from provision import HERE
from recipes import (
    HUB_MODEL,
    MODEL,
    RECIPES,
    STEPS,
    Recipe,
    write_data,
    write_llama_tokenizer,
)

from backends.tinkex.shim_command import shim_environment
from backends.tinkex_dev.api import sessions
from backends.tinkex_dev.server import DEV_KEY, DevServer
from backends.tinkex_dev.service import service
from backends.tiny_lm.network import BASE_MODELS

T = TypeVar("T")
TIMES = ("time", "sec", "tokens_per", "duration")
"""Parts of the names of metrics that are times."""


@pytest.fixture(autouse=True)
def models(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that has the hub's model too."""
    names = (*BASE_MODELS, HUB_MODEL)
    for module in (service, sessions):
        monkeypatch.setattr(module, "BASE_MODELS", names)


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_the_same_metrics_on_the_sdk_and_under_the_shim(
    recipe: str, provided: Any, tmp_path: Path
) -> None:
    """Every metric of every step but times, digit for digit."""
    python = provided("cookbook")

    theirs, ours = in_both_forms(lambda form: metrics_of(python, RECIPES[recipe], tmp_path / form, FORMS[form]))

    assert len(theirs) >= STEPS
    assert len(theirs[0]) > 1
    assert any(row.get("grad_norm", 1) for row in theirs), "no step had anything to learn"
    assert ours == theirs


def test_weights_are_downloaded_in_both_forms(provided: Any, tmp_path: Path) -> None:
    """``tinker_cookbook.weights.download`` of a state, through an encrypted export, and of external weights: the
    files of both forms are equal."""
    python = provided("cookbook")

    def downloaded(form: str) -> dict[str, bytes]:
        folder = tmp_path / form
        folder.mkdir()
        with DevServer(folder / "server", seed=3) as server:
            ended = subprocess.run(
                [python, HERE / "cookbook_download.py", MODEL, folder / "found"],
                env=environment_of(FORMS[form], server, folder),
                cwd=folder, capture_output=True, text=True, timeout=400, check=False,
            )  # fmt: skip
        assert ended.returncode == 0, ended.stderr[-4000:]
        files = [path for path in (folder / "found").rglob("*") if path.is_file()]
        return {str(path.relative_to(folder / "found")): path.read_bytes() for path in files}

    theirs, ours = in_both_forms(downloaded)

    assert {"state/adapter_model.safetensors", "external/adapter_model.safetensors"} <= theirs.keys()
    assert ours == theirs


FORMS: dict[str, Mapping[str, str]] = {"sdk": os.environ, "shim": shim_environment(os.environ)}


def in_both_forms(run: Callable[[str], T]) -> list[T]:
    """The results with the SDK and under the shim, which run side by side."""
    with ThreadPoolExecutor(len(FORMS)) as pool:
        return list(pool.map(run, FORMS))


def metrics_of(python: Path, recipe: Recipe, folder: Path, environment: Mapping[str, str]) -> list[dict[str, Any]]:
    """Run a recipe on a server of its own; returns the rows of metrics, without times."""
    ended = run_recipe(python, recipe, folder, environment)
    assert ended.returncode == 0, ended.stderr[-4000:]
    rows = [json.loads(line) for line in (folder / "log" / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in row.items() if not any(part in key for part in TIMES)} for row in rows]


def run_recipe(
    python: Path, recipe: Recipe, folder: Path, environment: Mapping[str, str]
) -> "subprocess.CompletedProcess[str]":
    """Run a recipe to its end on a server of its own."""
    write_data(folder)
    with DevServer(folder / "server", seed=3) as server:
        [written] = (folder / "server" / "tokenizers").glob("*/*")
        tokenizer = write_llama_tokenizer(written, folder / "tokenizer")
        command: list[str | Path] = [python, HERE / "cookbook_recipe.py", tokenizer, recipe.model, recipe.module]
        command += [f"model_name={recipe.model}", f"log_path={folder / 'log'}", *recipe.arguments]
        return subprocess.run(
            command, env=environment_of(environment, server, folder),
            cwd=folder, capture_output=True, text=True, timeout=400, check=False,
        )  # fmt: skip


def environment_of(environment: Mapping[str, str], server: DevServer, folder: Path) -> dict[str, str]:
    """The environment of a program that uses a server and no hub."""
    # the shim's program finds our packages in the repository, and what they need in its environment
    path = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), str(HERE.parents[1])]))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    service_at = {"TINKER_BASE_URL": server.url, "TINKER_API_KEY": DEV_KEY, "TINKER_TELEMETRY": "0"}
    return {**environment, **offline, **service_at, "PYTHONPATH": path}
