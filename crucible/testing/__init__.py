"""The contract test kit: test suites that a plug-in's tests subclass.

    from crucible.testing import BackendContract

    class TestMine(BackendContract):
        @pytest.fixture
        def backend(self): return MyBackend()

The suites exercise every capability that the backend claims, and verify that the others are refused. Needs pytest.
"""

import pytest

pytest.register_assert_rewrite(
    "crucible.testing.command",
    "crucible.testing.completion",
    "crucible.testing.download",
    "crucible.testing.environment",
    "crucible.testing.images",
    "crucible.testing.token_sampler",
    "crucible.testing.training",
)

from crucible.testing.command import CommandBackendContract  # noqa: E402 - assertions must be rewritten first
from crucible.testing.completion import BackendContract  # noqa: E402
from crucible.testing.download import DownloadContract  # noqa: E402
from crucible.testing.environment import EnvironmentContract  # noqa: E402
from crucible.testing.images import ImageContract  # noqa: E402
from crucible.testing.token_sampler import SamplerContract  # noqa: E402
from crucible.testing.training import TrainingBackendContract  # noqa: E402

__all__ = [
    "BackendContract",
    "CommandBackendContract",
    "DownloadContract",
    "EnvironmentContract",
    "ImageContract",
    "SamplerContract",
    "TrainingBackendContract",
]
