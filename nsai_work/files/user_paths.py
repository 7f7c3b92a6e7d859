"""Paths that users give: expansion, and opening of regular files only."""

import os
import stat
from io import BufferedReader
from pathlib import Path

from crucible.errors import InvalidRequest


def expanded(path: str) -> Path:
    """Expand ``~`` in a path. The path of an unknown user is returned unchanged, and is then reported as
    missing."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class NotRegular(Exception):
    """A path that is no regular file. The text says what it is."""


def open_regular(path: Path) -> BufferedReader:
    """Open a regular file for reading. A FIFO or a device, whose reads may never end, is refused without a read.

    Raises:
        NotRegular: the path is something else, or does not exist.
        OSError: it cannot be opened.
    """
    if not path.is_file():
        raise NotRegular(_kind_of(path))
    # without waiting for the writer of a FIFO that took the file's place meanwhile
    file = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise NotRegular(_kind_of(path))
    return os.fdopen(file, "rb")


def _kind_of(path: Path) -> str:
    if path.is_dir():
        return "is a directory"
    return "is not a regular file" if path.exists() else "does not exist"


def refuse_odd_target(field: str, path: Path) -> None:
    """Refuse a file to write that exists and is no regular file, such as a FIFO, which may never be read.

    Raises:
        InvalidRequest: naming ``field``.
    """
    try:
        odd = not stat.S_ISREG(path.stat().st_mode)
    except FileNotFoundError:
        odd = path.is_symlink()
    except (OSError, ValueError) as error:
        raise InvalidRequest.of(field, str(path), f"cannot be written: {_reason(error)}") from None
    if odd:
        raise InvalidRequest.of(field, str(path), "it is not a regular file; name a new file")


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "strerror", None) or str(error)
