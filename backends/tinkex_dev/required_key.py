"""The only API key that the command ``nsai-work dev-server`` accepts: from a file or the environment."""

import os
from pathlib import Path
from typing import Final

from crucible.errors import InvalidRequest
from nsai_work.user_paths import NotRegular, expanded, open_regular

KEY_VARIABLE: Final = "TINKER_DEV_SERVER_KEY"
MAX_BYTES: Final = 64 << 10


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
    try:
        with open_regular(expanded(str(file))) as opened:
            key = opened.read(MAX_BYTES).decode().strip()
    except NotRegular as error:
        raise InvalidRequest.of("--require-key-file", str(file), f"it {error}; name an existing file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidRequest.of("--require-key-file", str(file), f"cannot be read: {reason}") from error
    if not key.isascii() or not key.isprintable() or not key:
        raise InvalidRequest.of(
            "--require-key-file", str(file), "it must hold one line of printable ASCII, the key"
        )
    return key
