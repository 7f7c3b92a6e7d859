"""The package's face: sorted, complete, and light to import."""

import subprocess
import sys

import crucible


def test_all_is_sorted_and_true() -> None:
    """Every public name exists, in order."""
    assert crucible.__all__ == sorted(crucible.__all__)
    assert all(hasattr(crucible, name) for name in crucible.__all__)


def test_importing_needs_pydantic_alone() -> None:
    """In a process where nothing heavy can be imported, the contract still can."""
    heavy = ("celery", "sqlalchemy", "httpx", "numpy", "stevedore", "anyio", "kombu", "yaml", "pytest")
    code = f"import sys; sys.modules.update(dict.fromkeys({heavy!r})); import crucible; crucible.backend_names()"

    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
