"""Declines: jobs that this worker cannot run, and leaves to other workers for a while.

A worker declines a job if it lacks the backend, its package, its credential, or a command or file of the job, if it
does not reach the place of the files, or if the job is of another version. The job is queued again, uncounted. A
lack of the backend holds for all of its jobs, and BackendPool remembers it; any other lack holds for the job.
"""

from collections import OrderedDict

from crucible.errors import CallerError, CommandMissing, CredentialMissing, PluginError
from nsai_work.clock import Clock
from nsai_work.errors import BlobsElsewhere, BlobsUnavailable, FileUnusable

DECLINE_S = 60.0
"""The time for which a worker leaves what it has declined."""

MAX_REMEMBERED = 10_000


def is_lacking_backend(error: Exception) -> bool:
    """Check whether an error of creating or opening a backend is this process's lack, which another may not have.

    A credential that the service refused is not: the same one fails elsewhere too.
    """
    return isinstance(error, CallerError | PluginError | CredentialMissing)


def is_lacking_for_job(error: Exception) -> bool:
    """Check whether an error of a job, with its backend open, is this process's lack."""
    return isinstance(error, BlobsElsewhere | BlobsUnavailable | CommandMissing | CredentialMissing | FileUnusable)


class DeclinedJobs:
    """The jobs that this worker has declined lately, by seq."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._until: OrderedDict[int, float] = OrderedDict()

    def add(self, seq: int) -> None:
        """Leave a job to other workers from now on."""
        self._until[seq] = self._clock.monotonic() + DECLINE_S
        self._until.move_to_end(seq)
        if len(self._until) > MAX_REMEMBERED:
            self._until.popitem(last=False)

    def seqs(self) -> tuple[int, ...]:
        """Return the seqs of the jobs that must not be claimed now."""
        now = self._clock.monotonic()
        while self._until and next(iter(self._until.values())) <= now:
            self._until.popitem(last=False)
        return tuple(self._until)
