"""Fixtures of the driver tests, which run on asyncio, each on its own loop."""

from pathlib import Path

import pytest

from tests.integration.training.harness import Scene, payload_of


@pytest.fixture
def anyio_backend() -> str:
    """The driver is written for asyncio."""
    return "asyncio"


@pytest.fixture
async def alone(tmp_path: Path) -> Scene:
    """The run that nothing happened to."""
    scene = Scene(payload_of(tmp_path))
    await scene.drive()
    return scene
