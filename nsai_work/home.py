"""The home folder: parent of the embedded database, the spool and the backends' local files."""

import os
from pathlib import Path
from typing import Final

from crucible.errors import InvalidRequest

HOME_VARIABLE: Final = "NSAI_WORK_HOME"


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
