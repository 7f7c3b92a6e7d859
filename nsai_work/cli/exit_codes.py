"""Exit codes of ``nsai-work``."""

from enum import IntEnum

from crucible.errors import AuthenticationFailed, CallerError, CrucibleError, ErrorCategory, NotFound
from nsai_work.errors import JobNotFound, WaitTimedOut
from nsai_work.lifecycle import JobStatus


class ExitCode(IntEnum):
    """0 done, 1 failed, 2 bad input, 3 not found, 124 timed out waiting, 130 interrupted."""

    DONE = 0
    FAILED = 1
    BAD_INPUT = 2
    NOT_FOUND = 3
    WAIT_TIMEOUT = 124
    INTERRUPTED = 130


def error_exit_code(error: CrucibleError) -> ExitCode:
    """Return the exit code for an error that ended a command. A rejected credential counts as bad input."""
    if isinstance(error, NotFound | JobNotFound):
        return ExitCode.NOT_FOUND
    if isinstance(error, WaitTimedOut):
        return ExitCode.WAIT_TIMEOUT
    if isinstance(error, CallerError | AuthenticationFailed) or error.category is ErrorCategory.VALIDATION:
        return ExitCode.BAD_INPUT
    return ExitCode.FAILED


def status_exit_code(status: JobStatus) -> ExitCode:
    """Return the exit code for the final status of a job: DONE only if it succeeded."""
    return ExitCode.DONE if status is JobStatus.SUCCEEDED else ExitCode.FAILED
