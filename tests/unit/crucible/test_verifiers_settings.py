"""The environment verifiers where its package is missing, and the packages that it may import."""

import importlib
from pathlib import Path

import pytest

from crucible.environments import environment_names
from crucible.environments.verifiers import VerifiersEnvironment
from crucible.errors import CommandMissing, InvalidRequest


def test_a_process_without_the_package_leaves_its_jobs_to_others() -> None:
    """And says what to install."""
    with pytest.raises(CommandMissing, match=r"pip install 'verifiers<0\.1\.10'"):
        VerifiersEnvironment({"id": "reverse-text"})
    assert "verifiers" in environment_names()


@pytest.mark.parametrize("name", ["json", "numpy", "nothing-here", "owner/json"])
def test_modules_that_were_not_made_for_it_are_not_imported(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A job must not import whatever is installed."""
    (tmp_path / "verifiers.py").write_text("raise RuntimeError\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.invalidate_caches()
    with pytest.raises(InvalidRequest, match="requires verifiers"):
        VerifiersEnvironment({"id": name})
