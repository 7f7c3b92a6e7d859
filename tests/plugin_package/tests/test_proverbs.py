"""The plug-in keeps the contract."""

import pytest
from crucible_proverbs import ProverbBackend

from crucible.testing import BackendContract


class TestProverbs(BackendContract):
    """All of it."""

    @pytest.fixture
    def backend(self):
        return ProverbBackend()
