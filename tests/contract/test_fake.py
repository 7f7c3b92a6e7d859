"""The scripted backend keeps the contract."""

from pathlib import Path

import pytest

from backends.fake import FakeBackend
from crucible.testing import TrainingBackendContract


class TestFake(TrainingBackendContract):
    """Every promise of the contract, in this process."""

    @pytest.fixture
    def backend(self, tmp_path: Path) -> FakeBackend:
        return FakeBackend({"home": str(tmp_path)})
