"""The fixtures of the contract tests of training: a backend that trains, and a specification of runs."""

import pytest

from crucible.backend import TrainingBackend
from crucible.testing.completion import BackendContract
from crucible.training import RunSpec


class TrainingContract(BackendContract):
    """The base of the suites that train. ``TrainingBackendContract`` defines ``spec``."""

    @pytest.fixture
    def backend(self) -> TrainingBackend:
        """The backend under test."""
        raise NotImplementedError("define a fixture named backend")

    @property
    def spec(self) -> RunSpec:
        """The specification of the suite's runs."""
        raise NotImplementedError("define the property spec")
