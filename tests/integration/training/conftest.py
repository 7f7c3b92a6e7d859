"""Driver tests run on asyncio, each on its own loop."""

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """The driver is written for asyncio."""
    return "asyncio"
