"""A run whose parties write its history, and the check of it."""

import contextlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.verify.check import check
from tests.verify.history import Violation, read_history
from tests.verify.recorder import FOLDER_VARIABLE, recorded_submits

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class RecordedRun:
    """The folder of a history, and the log of effects of its dev server."""

    folder: Path
    effects: Path | None

    def violations(self) -> list[Violation]:
        """Return the violations so far."""
        return check(read_history(self.folder, self.effects)) if any(self.folder.iterdir()) else []

    def require_clean(self) -> str:
        """Run the checker as a program, over the history of jobs that have ended. Returns what it prints."""
        effects = [] if self.effects is None else ["--effects", str(self.effects)]
        command = [sys.executable, "-m", "tests.verify.check", str(self.folder), "--complete", *effects]
        checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert checked.returncode == 0, checked.stdout + checked.stderr
        return checked.stdout


@contextlib.contextmanager
def recorded(variables: dict[str, str], folder: Path, effects: Path | None = None) -> Iterator[RecordedRun]:
    """Let this process, and all workers that start from now on with these variables, write what they do."""
    folder.mkdir()
    variables[FOLDER_VARIABLE] = str(folder)
    try:
        with recorded_submits(folder):
            yield RecordedRun(folder, effects)
    finally:
        del variables[FOLDER_VARIABLE]
