"""The demo's folder. The demo writes and deletes nothing outside it."""

import shutil
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from crucible.errors import InvalidRequest

MARKER = ".nsai-work-demo"


@dataclass(frozen=True, slots=True)
class DemoFolder:
    """Paths of the demo's files."""

    root: Path

    @property
    def home(self) -> Path:
        """NSAI_WORK_HOME of the demo: the store and the broker's spool."""
        return self.root / "home"

    @property
    def server_state(self) -> Path:
        """The development server's state folder: runs, checkpoints and the effect log."""
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
        """The worker's log."""
        return self.root / "worker.log"


def prepare_folder(root: Path) -> DemoFolder:
    """Create the folder, or recreate that of an earlier demo.

    Raises:
        InvalidRequest: the folder contains files that are not a demo's.
    """
    root = root.absolute()
    if root.exists() and not (root / MARKER).exists() and (not root.is_dir() or any(root.iterdir())):
        raise InvalidRequest.of("--output", str(root), "expected a new or empty folder, or one of an earlier demo")
    if root.exists():
        shutil.rmtree(root)
    try:
        root.mkdir(parents=True)
    except OSError as error:
        raise InvalidRequest.of("--output", str(root), f"it cannot be created: {error.strerror}") from error
    (root / MARKER).touch()
    folder = DemoFolder(root)
    folder.home.mkdir(mode=0o700)
    folder.data.write_bytes(files(__package__).joinpath("conversations.jsonl").read_bytes())
    return folder
