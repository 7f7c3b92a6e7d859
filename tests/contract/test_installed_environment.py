"""An environment of a stranger's package, found by its entry point, trains a job without any setting."""

import re
import sys
from pathlib import Path

import pytest

from crucible.environments import environment_names
from nsai_work import Job, submit
from nsai_work.testing import isolated_store, run_jobs

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "howto" / "write-an-environment.md"


def install(folder: Path) -> None:
    """Lay the package of the page out as pip does: its module, and its metadata with the entry point."""
    text = PAGE.read_text()
    module = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)[0]
    (folder / "my_package").mkdir()
    (folder / "my_package" / "__init__.py").write_text("")
    (folder / "my_package" / "games.py").write_text(module)
    [group, line] = re.findall(r'^\[project\.entry-points\."(.*?)"\]\n(.*?)\n', text, re.MULTILINE)[0]
    metadata = folder / "my_package-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[{group}]\n{line.replace(chr(34), '')}\n")


def test_an_installed_environment_trains_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the name that the page gives it, with its settings."""
    install(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert "guess" in environment_names()
    payload = {
        "method": "rl",
        "base_model": "tiny-lm",
        "environment": {"name": "guess", "args": {"limit": 5}},
        "groups_per_step": 1,
        "group_size": 2,
        "max_steps": 1,
        "sampling": {"max_tokens": 2},
        "advantage": {"drop_constant": False},
        "lora": {"rank": 4},
    }
    with isolated_store():
        handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
        run_jobs()
        assert handle.job().status == "succeeded", handle.job().error
        [step] = handle.steps()
        assert step.metrics["env.guesses"] == 3.0
        assert [record.turns for record in handle.rollouts()] == [3, 3]
    monkeypatch.delitem(sys.modules, "my_package.games")
    monkeypatch.delitem(sys.modules, "my_package")
