"""Suites that a plug-in's tests subclass. Three lines: the class, the ``backend`` fixture, what it returns.

    from crucible.testing import BackendContract

    class TestMine(BackendContract):
        @pytest.fixture
        def backend(self): return MyBackend()

A capability that the backend claims is exercised; one that it does not claim must be refused properly.
Needs pytest.
"""

import pytest

pytest.register_assert_rewrite("crucible.testing.completing", "crucible.testing.training")

from crucible.testing.completing import BackendContract  # noqa: E402 - after assertions are rewritten
from crucible.testing.training import TrainingBackendContract  # noqa: E402

__all__ = ["BackendContract", "TrainingBackendContract"]
