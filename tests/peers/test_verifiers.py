"""Environments of the package verifiers, by our adapter: the kit of environments, in that package's environment."""

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

from provision import HERE


def test_its_environments_keep_the_contract(provided: Any, tmp_path: Path) -> None:
    """With one answer, several turns, and tools; the package of its environments is a stranger's."""
    python = provided("verifiers")
    for name in ("spoken_sums.py", "verifiers_kit.py"):
        shutil.copy(HERE / name, tmp_path)
    folder = tmp_path / "spoken_sums-1.0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: spoken-sums\nVersion: 1.0\nRequires-Dist: verifiers\n"
    )
    (folder / "top_level.txt").write_text("spoken_sums\n")
    found = os.pathsep.join([str(HERE.parents[1]), str(tmp_path)])
    ended = subprocess.run(
        [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull, f"--rootdir={tmp_path}",
         tmp_path / "verifiers_kit.py"],
        env={**os.environ, "PYTHONPATH": found, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        cwd=tmp_path, capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout[-4000:]
    assert " passed" in ended.stdout
    assert "skipped" not in ended.stdout
