"""A package or folder with the name of one of ours: the error names its file."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run(folder: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run Python in a folder, which comes first on its path."""
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=os.environ | {"NSAI_WORK_HOME": str(folder / "home")},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize("form", ["another package", "installed over ours"])
def test_a_foreign_crucible_is_named(tmp_path: Path, form: str) -> None:
    """PyPI has a package of that name."""
    package = tmp_path / "crucible"
    if form == "another package":
        package.mkdir()
    else:
        shutil.copytree(ROOT / "crucible", package)
        (package / "__init__.pyi").unlink()
    (package / "__init__.py").write_text("__version__ = '0.7.0'\n")

    found = run(tmp_path, "-m", "nsai_work.cli", "doctor")

    assert found.returncode != 0
    assert f"{package / '__init__.py'} is imported in place of the package 'crucible'" in found.stderr
    assert "pip uninstall crucible" in found.stderr


def test_doctor_names_a_projects_own_backends_folder(tmp_path: Path) -> None:
    """It hides every backend."""
    (tmp_path / "backends").mkdir()
    (tmp_path / "backends" / "__init__.py").write_text("")

    found = run(tmp_path, "-m", "nsai_work.cli", "doctor", "--json")

    assert found.returncode == 1
    assert f"{tmp_path / 'backends' / '__init__.py'} is imported in place of the package 'backends'" in found.stdout
