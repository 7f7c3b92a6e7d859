"""Files that are no regular ones."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def make_odd_file(kind: str, path: Path) -> Iterator[Path]:
    """Make a file of a kind at ``path``, and yield its path. A device is one that the system has."""
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "directory":
        path.mkdir()
    elif kind == "symlink loop":
        path.symlink_to(path)
    elif kind == "dangling symlink":
        path.symlink_to(path.with_name("nowhere"))
    elif kind == "device":
        path = Path("/dev/zero")
    if kind != "socket":
        yield path
        return
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(path.parent)  # the path of a socket is short
        try:
            listener.bind(path.name)
        finally:
            os.chdir(here)
        yield path
