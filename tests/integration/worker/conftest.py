"""Rigs for each supported pair of store and broker."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import PAIRS, Rig, open_rig


@pytest.fixture(params=PAIRS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store and a broker of this test's own."""
    with open_rig(request, tmp_path) as opened:
        yield opened


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[Rig]:
    """An embedded rig, for tests that do not depend on the services."""
    rig = Rig.embedded(tmp_path)
    yield rig
    rig.close()
