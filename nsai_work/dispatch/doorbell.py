"""Doorbells of the spool directory: named pipes on which readers wait, one each, and which writers ring.

A pipe without a reader is that of a process that has ended, and the next writer removes it. A ring is lost if its
process ends between storing the message and ringing, so readers look at the directory now and then too.
"""

import contextlib
import errno
import os
import secrets
import select
from pathlib import Path
from typing import Final

from nsai_work.files.home import make_private_folder

FOLDER: Final = ".bells"
"""The folder of the pipes in the spool directory. No queue has its name."""


class Doorbell:
    """The named pipe of a reader. Raises OSError where the file system has none."""

    def __init__(self, spool: Path) -> None:
        folder = spool / FOLDER
        make_private_folder(folder)
        name = secrets.token_hex(8)
        # writers must not see a pipe before it has a reader: they would remove it
        hidden, self._path = folder / f".{name}", folder / name
        os.mkfifo(hidden, 0o600)
        self._reader = os.open(hidden, os.O_RDONLY | os.O_NONBLOCK)
        # a pipe without any writer would be at its end all the time
        self._writer = os.open(hidden, os.O_WRONLY | os.O_NONBLOCK)
        hidden.rename(self._path)
        self._poll = select.poll()
        self._poll.register(self._reader, select.POLLIN)

    @property
    def is_reachable(self) -> bool:
        """Writers find the pipe: the spool may be deleted at any time."""
        return self._path.exists()

    def wait(self, timeout_s: float) -> bool:
        """Wait until it rings, for at most ``timeout_s``. Returns whether it has rung since the last call."""
        if not self._poll.poll(max(timeout_s, 0.0) * 1000):
            return False
        with contextlib.suppress(BlockingIOError):
            os.read(self._reader, 65_536)
        return True

    def close(self) -> None:
        """Remove the pipe."""
        self._path.unlink(missing_ok=True)
        os.close(self._writer)
        os.close(self._reader)


def ring_all(spool: Path) -> None:
    """Ring the doorbells of all readers of a spool directory."""
    try:
        pipes = list((spool / FOLDER).iterdir())
    except OSError:
        return
    for pipe in pipes:
        if not pipe.name.startswith("."):
            _ring(pipe)


def _ring(path: Path) -> None:
    try:
        pipe = os.open(path, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:
            path.unlink(missing_ok=True)
        return
    # a full pipe rings already
    with contextlib.suppress(OSError):
        os.write(pipe, b"r")
    os.close(pipe)
