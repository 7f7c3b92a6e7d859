"""Expansion of user-supplied paths."""

from pathlib import Path


def expanded(path: str) -> Path:
    """Expand ``~`` in a path. The path of an unknown user is returned unchanged, and is then reported as
    missing."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)
