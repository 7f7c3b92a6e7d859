"""Exit codes of errors and of final statuses."""

import pytest

from crucible.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    CrucibleError,
    InvalidRequest,
    NotFound,
    PluginError,
    UnknownBackend,
    Unsupported,
)
from nsai_work.cli.exit_codes import error_exit_code, status_exit_code
from nsai_work.errors import DataChanged, IllegalTransition, InvalidJob, JobNotFound, StoreUnavailable
from nsai_work.lifecycle import JobStatus

CASES = [
    (InvalidRequest, 2),
    (InvalidJob, 2),
    (UnknownBackend, 2),
    (Unsupported, 2),
    (AuthenticationFailed, 2),
    (DataChanged, 2),
    (IllegalTransition, 2),
    (NotFound, 3),
    (JobNotFound, 3),
    (BackendUnavailable, 1),
    (PluginError, 1),
    (StoreUnavailable, 1),
]


@pytest.mark.parametrize(("kind", "code"), CASES, ids=[kind.__name__ for kind, _ in CASES])
def test_exit_codes_of_errors(kind: type[CrucibleError], code: int) -> None:
    """Bad input, a missing object and a failure of a service differ."""
    assert error_exit_code(kind("something")) == code


@pytest.mark.parametrize("status", list(JobStatus), ids=str)
def test_only_success_is_zero(status: JobStatus) -> None:
    """The exit code is 0 exactly if the job succeeded."""
    assert (status_exit_code(status) == 0) == (status is JobStatus.SUCCEEDED)
