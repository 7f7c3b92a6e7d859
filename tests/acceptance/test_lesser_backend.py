"""An installed backend without forward passes: what needs them is refused at submit, with its field."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import TIMEOUT_S, Cli
from tests.conversations import write_pairs

MODULE = """
from backends.fake.backend import FakeBackend

class LesserBackend(FakeBackend):
    name = "lesser"

    async def capabilities(self):
        found = await super().capabilities()
        return found.model_copy(update={"backend_id": "lesser", "supports_forward": False})
"""


@pytest.fixture
def lesser(cli: Cli, tmp_path: Path) -> Callable[..., "subprocess.CompletedProcess[str]"]:
    """Run the command line where the backend is installed."""
    site = tmp_path / "site"
    metadata = site / "lesser-1.0.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: lesser\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text("[crucible.backends]\nlesser = lesser:LesserBackend\n")
    (site / "lesser.py").write_text(MODULE)
    paths = {"PYTHONPATH": os.pathsep.join([str(site), str(Path(__file__).parents[2])])}

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            cli.command(*arguments), env=cli.environment | paths, capture_output=True, text=True, timeout=TIMEOUT_S
        )

    return run


NEEDS: dict[str, dict[str, Any]] = {
    "eval": {"eval": {"every": 2, "split": 0.5}},
    "method": {"method": "dpo", "data": {"path": "pairs.jsonl"}},
    "objective": {"objective": {"name": "brier"}, "data": {"path": "choices.jsonl"}},
}


@pytest.mark.parametrize("field", NEEDS)
def test_what_needs_forward_passes_is_refused(
    lesser: Callable[..., "subprocess.CompletedProcess[str]"],
    cli: Cli,
    job: dict[str, Any],
    job_file: Callable[[Any], Path],
    tmp_path: Path,
    field: str,
) -> None:
    """Also where the worker checks the data; nothing is stored."""
    write_pairs(tmp_path / "pairs.jsonl", 6)
    (tmp_path / "choices.jsonl").write_text('{"prompt": "a", "choices": {"x": 0.25, "y": 0.75}}\n')
    job["backend"] = "lesser"
    job["payload"] |= NEEDS[field]
    for options in ([], ["--no-check-data"]):
        done = lesser("submit", *options, job_file(job))
        assert done.returncode == 2, done.stderr
        assert f"payload.{field}: 'lesser' has no forward passes, which this needs" in done.stderr
        assert cli.stored() == []


def test_what_needs_no_forward_passes_trains(
    lesser: Callable[..., "subprocess.CompletedProcess[str]"], job: dict[str, Any], job_file: Callable[[Any], Path]
) -> None:
    """The same job without such a field."""
    job["backend"] = "lesser"
    done = lesser("run", job_file(job), "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["steps"] == 6
