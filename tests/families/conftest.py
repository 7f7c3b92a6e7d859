"""The data of the families' jobs, and what stands in for a package that is not installed."""

from pathlib import Path

import pytest

from tests.families import verifiers_stub
from tests.families.rows import write_rows


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a file of each shape of data."""
    folder = tmp_path_factory.mktemp("families")
    write_rows(folder)
    return folder


@pytest.fixture(scope="session")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where verifiers and one of its environments seem to be installed."""
    return verifiers_stub.install(tmp_path_factory.mktemp("families"))
