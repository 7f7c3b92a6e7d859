"""A key in a file of its own, for servers on this machine: on a command line everybody could read it."""

from pathlib import Path
from typing import Final

from crucible.errors import InvalidRequest
from nsai_work.files.user_paths import NotRegular, expanded, open_regular

MAX_BYTES: Final = 64 << 10


def read_key_file(option: str, file: Path) -> str:
    """Read a key, which is one line of printable ASCII.

    Raises:
        InvalidRequest: the file cannot be read or holds no key; the error names the option and the file.
    """
    try:
        with open_regular(expanded(str(file))) as opened:
            key = opened.read(MAX_BYTES).decode().strip()
    except NotRegular as error:
        raise InvalidRequest.of(option, str(file), f"it {error}; name an existing file") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8 text"
        raise InvalidRequest.of(option, str(file), f"cannot be read: {reason}") from error
    if not is_key(key):
        raise InvalidRequest.of(option, str(file), "it must hold one line of printable ASCII, the key")
    return key


def is_key(text: str) -> bool:
    """Return whether a text can be a key in an HTTP header."""
    return bool(text) and text.isascii() and text.isprintable()
