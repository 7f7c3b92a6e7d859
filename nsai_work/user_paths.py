"""Paths as people write them."""

from pathlib import Path


def expanded(path: str) -> Path:
    """The path with ``~`` expanded. That of an unknown user is left as it stands: it is then seen not to exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
