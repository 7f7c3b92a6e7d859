"""The demo's folder: everything it writes lies there, and nothing else is ever deleted."""

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from crucible.errors import InvalidRequest

MARK = ".nsai-work-demo"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Where things lie."""

    root: Path

    @property
    def home(self) -> Path:
        """NSAI_WORK_HOME of this demo: the store and the broker's spool."""
        return self.root / "home"

    @property
    def server_state(self) -> Path:
        """What the development server keeps: checkpoints and its log."""
        return self.root / "server"

    @property
    def data(self) -> Path:
        """The conversations to train on."""
        return self.root / "conversations.jsonl"

    @property
    def plot(self) -> Path:
        """The loss plot."""
        return self.root / "loss.svg"

    @property
    def worker_log(self) -> Path:
        """What the worker says."""
        return self.root / "worker.log"


def prepare_folder(root: Path) -> DemoFolder:
    """A fresh folder. One that an earlier demo made is emptied.

    Raises:
        InvalidRequest: the folder holds something that no demo put there.
    """
    root = root.absolute()
    if root.exists() and not (root / MARK).exists() and (not root.is_dir() or any(root.iterdir())):
        raise InvalidRequest.of("--output", str(root), "name an empty or a new folder, or one of an earlier demo")
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    (root / MARK).touch()
    folder = DemoFolder(root)
    folder.home.mkdir(mode=0o700)
    folder.data.write_bytes(files(__package__).joinpath("conversations.jsonl").read_bytes())
    return folder
