"""The only API key that the command ``nsai-work dev-server`` accepts: from a file or the environment."""

import os
from pathlib import Path
from typing import Final

from crucible.errors import InvalidRequest
from nsai_work.files.key_file import read_key_file

KEY_VARIABLE: Final = "TINKER_DEV_SERVER_KEY"


def required_key(file: Path | None, *, on_command_line: bool) -> str | None:
    """Read the key from the file, else from the environment. None accepts any key that begins with ``tml-``.

    Raises:
        InvalidRequest: the key was given on the command line, or the file cannot be read or holds no key.
    """
    if on_command_line:
        # not shown again here: everybody on the machine reads the arguments of a process
        raise InvalidRequest(
            "--require-key: a key on the command line is in the process list and in the shell's history; put it"
            f" into a file and use --require-key-file PATH, or set {KEY_VARIABLE}",
            details={"field": "--require-key"},
        )
    if file is None:
        return os.environ.get(KEY_VARIABLE) or None
    return read_key_file("--require-key-file", file)
