"""Discovery of a local development server by the file that it writes."""

import contextlib
import json
import os
from pathlib import Path
from typing import Final

from nsai_work.files.home import home_folder

_FILE_NAME: Final = "dev-server.json"


def dev_server_file(home: Path | None = None) -> Path:
    """Return the file in which a running development server stores ``{"url", "pid"}``.

    ``home`` defaults to NSAI_WORK_HOME, or the user's state folder.

    Raises:
        InvalidRequest: NSAI_WORK_HOME begins with ``~`` and an unknown user.
    """
    return (home or home_folder()) / _FILE_NAME


def running_dev_server(home: Path | None = None) -> str | None:
    """Return the URL of the development server on this machine; None when none is running."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads(dev_server_file(home).read_text())
        url, pid = found["url"], found["pid"]
        if isinstance(url, str) and isinstance(pid, int) and _is_alive(pid):
            return url
    return None


def _is_alive(pid: int) -> bool:
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
