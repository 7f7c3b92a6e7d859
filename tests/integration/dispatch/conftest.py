"""Rigs for each supported pair of store and broker, with PostgreSQL's notifications turned off.

Only the broker can therefore wake the workers.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.rig import PAIRS, Rig, open_rig


@pytest.fixture(params=PAIRS)
def rig(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Rig]:
    """A store and a broker of this test's own."""
    with open_rig(request, tmp_path, notifications=False) as opened:
        yield opened
