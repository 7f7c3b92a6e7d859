"""File lock on a state folder: two servers on one folder would overwrite each other's files."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from backends.tinkex_dev.errors import StateUnusable
from nsai_work.files.home import make_private_folder

_LOCK_FILE: Final = ".server.lock"


@contextlib.contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Create the folder if it is missing, and lock it. The kernel releases the lock however the process ends.

    Raises:
        StateUnusable: another live server has the lock, or the folder cannot be written.
    """
    try:
        make_private_folder(folder)
        lock = os.open(folder / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateUnusable(f"the state folder {folder} cannot be used: {error.strerror}") from error
    try:
        _acquire(lock, folder)
        yield
    finally:
        os.close(lock)


def _acquire(lock: int, folder: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        holder = os.pread(lock, 20, 0).decode(errors="replace").strip()
        raise StateUnusable(
            f"the state folder {folder} is in use by another server" + (f" (process {holder})" if holder else "")
        ) from error
    os.ftruncate(lock, 0)
    os.pwrite(lock, str(os.getpid()).encode(), 0)
