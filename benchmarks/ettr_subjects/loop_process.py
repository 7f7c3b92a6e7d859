"""A training loop of one's own in a process, started again at once after a kill."""

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from ettr_subjects.timing import Result


class LoopProcess(ABC):
    """The process of a loop, under a restart loop."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._started_at = 0.0

    @abstractmethod
    def command(self) -> list[str | Path]:
        """The command of the loop, which starts from the last save."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Its environment."""

    @abstractmethod
    def results(self) -> list[Result]:
        """All steps that the run has recorded, the repeated ones too, in order."""

    def start(self) -> None:
        """Start the loop, from its last save."""
        self._started_at = time.time()
        with (self.folder / "loop.log").open("ab") as log:
            self._process = subprocess.Popen(
                self.command(), env=self.environment(), cwd=self.folder, stdout=log, stderr=log
            )

    def owned_since(self) -> float | None:
        """The first result of this process."""
        return next((result.at for result in self.results() if result.at > self._started_at), None)

    def kill_owner(self) -> None:
        """Kill the process, and start it again at once."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        self.start()

    def has_ended(self) -> bool:
        """Return whether the loop has ended."""
        assert self._process is not None
        code = self._process.poll()
        if code:
            raise RuntimeError(f"the loop ended with code {code}: {(self.folder / 'loop.log').read_text()[-4000:]}")
        return code == 0

    def close(self) -> None:
        """Kill the process."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()
