"""The tinkex backend keeps the contract, over real HTTP against the development server."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backends.tinkex.backend import TinkexBackend
from backends.tinkex_dev.server import DevServer
from crucible.testing import TrainingBackendContract


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DevServer]:
    """One server for all tests here."""
    folder: Path = tmp_path_factory.mktemp("dev-server")
    with DevServer(folder, seed=0) as server:
        yield server


class TestTinkex(TrainingBackendContract):
    """Every promise of the contract."""

    @pytest.fixture
    def backend(self, server: DevServer) -> TinkexBackend:
        return TinkexBackend({"base_url": server.url, "api_key": "tml-dev"})
