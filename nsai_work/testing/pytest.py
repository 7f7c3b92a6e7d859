"""A pytest plugin: ``pytest_plugins = ["nsai_work.testing.pytest"]`` in ``conftest.py`` adds these fixtures."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsai_work.testing.clock import VirtualClock
from nsai_work.testing.clock import virtual_clock as _virtual_clock
from nsai_work.testing.store import IsolatedStore
from nsai_work.testing.store import isolated_store as _isolated_store


@pytest.fixture
def isolated_store(tmp_path: Path) -> Iterator[IsolatedStore]:
    """An isolated store in ``tmp_path``, for the test."""
    with _isolated_store(tmp_path / "nsai-work") as store:
        yield store


@pytest.fixture
def virtual_clock() -> Iterator[VirtualClock]:
    """A virtual clock at the time of the test's start."""
    with _virtual_clock() as clock:
        yield clock
