"""Runs of a kit in the environment of a peer, which has our product as an installed package."""

import os
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from pathlib import Path

from provision import HERE

ROOT = HERE.parents[1]


def lay_metadata(folder: Path) -> None:
    """Lay the metadata of our package in a folder as pip does, so that its plug-ins are found there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    metadata = folder / f"nsai_work-{project['version']}.dist-info"
    metadata.mkdir(parents=True)
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: nsai-work\nVersion: {project['version']}\n")
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {target}" for name, target in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")


def environment_with_product(folder: Path) -> dict[str, str]:
    """The variables of a process that finds our package, and the modules of ``folder``."""
    found = os.pathsep.join([str(ROOT), str(folder)])
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return {**os.environ, **offline, "PYTHONPATH": found}


def run_kit(python: Path, kit: str, modules: Sequence[str], folder: Path, *, only: str = "") -> None:
    """Run the tests of ``kit``, a module of this folder, with ``kit_job.py`` and others that it imports; ``only``
    selects by name."""
    for name in (kit, "kit_job.py", *modules):
        shutil.copy(HERE / name, folder)
    shutil.copy(ROOT / "docs" / "howto" / "write-an-environment.md", folder)
    lay_metadata(folder)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={folder}"]
    ended = subprocess.run(
        [*command, "-k", only, folder / kit],
        env=environment_with_product(folder), cwd=folder, capture_output=True, text=True, timeout=900, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-6000:]
    assert " passed" in ended.stdout
    assert "skipped" not in ended.stdout
