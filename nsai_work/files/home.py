"""The home folder: parent of the embedded database, the spool and the backends' local files.

It holds data of users, so folders are made with mode 0700 and files with 0600, by ``make_private_folder`` and
``write_private_file``, whichever process comes first and whatever its umask.
"""

import contextlib
import errno
import hashlib
import os
import re
import secrets
from pathlib import Path
from typing import Annotated, Final, TypeAlias

from pydantic import AfterValidator

from crucible.errors import InvalidRequest

HOME_VARIABLE: Final = "NSAI_WORK_HOME"
_PLAIN_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}")


def home_folder() -> Path:
    """The folder that NSAI_WORK_HOME names; if it is unset or empty, the user's state folder.

    It need not exist. ``Settings.home`` follows the same rules.

    Raises:
        InvalidRequest: the path begins with ``~`` and an unknown user.
    """
    path = os.environ.get(HOME_VARIABLE)
    if not path:
        return default_home()
    try:
        return absolute(path)
    except ValueError as error:
        raise InvalidRequest.of(HOME_VARIABLE, path, str(error)) from None


def default_home() -> Path:
    """The user's state folder for this product."""
    from platformdirs import user_state_path

    return user_state_path("nsai-work")


def absolute(path: str | Path) -> Path:
    """The absolute path, with ``~`` expanded. Raises ValueError for an unknown user."""
    try:
        return Path(path).expanduser().absolute()
    except RuntimeError:
        raise ValueError("begins with ~ and the name of a user that does not exist") from None


FolderSetting: TypeAlias = Annotated[Path, AfterValidator(absolute)]
"""A folder in settings: relative to the working directory, ``~`` expanded."""


def make_private_folder(folder: Path) -> Path:
    """Create a folder and its missing parents, all accessible to this user only, and return the folder.

    An existing folder keeps its mode: its owner may share it on purpose. Raises OSError.
    """
    # mkdir(parents=True) applies the mode only to the last folder
    for path in reversed((folder, *folder.parents)):
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
        path.mkdir(mode=0o700, exist_ok=True)
    return folder


def write_private_file(path: Path, content: bytes) -> None:
    """Replace a file atomically by one that only this user can read, in a folder that exists. Raises OSError."""
    draft = make_private_file(path.with_name(f".{path.name}.{secrets.token_hex(8)}"))
    draft.write_bytes(content)
    draft.replace(path)


def make_private_file(path: Path) -> Path:
    """Create an empty file that only this user can read, unless it exists, and return its path. Raises OSError."""
    with contextlib.suppress(FileExistsError):
        path.touch(mode=0o600, exist_ok=False)
    return path


def file_name(job_id: str) -> str:
    """Return the name of a job's own file or folder: the id, or if somebody chose one that could lead out of a
    folder, such as ``../x``, another name that only this id has."""
    if _PLAIN_NAME.fullmatch(job_id):
        return job_id
    plain = f"id-{job_id.encode().hex()}"
    return plain if len(plain) <= 200 else f"id-{hashlib.sha256(job_id.encode()).hexdigest()}"
