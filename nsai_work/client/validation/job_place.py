"""The place of a job among those that are submitted together: an error about one of several says which."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from crucible.errors import CrucibleError
from nsai_work.job import Job

_MARK: Final = "submitted_job"


@contextmanager
def about(job_id: str) -> Iterator[None]:
    """Mark errors of the block as those of a job."""
    try:
        yield
    except CrucibleError as error:
        error.details.setdefault(_MARK, job_id)
        raise


@contextmanager
def placed_errors(jobs: Sequence[Job]) -> Iterator[None]:
    """Begin the message of an error that is marked as that of one of several jobs with its place and name; its
    ``details`` have the place as ``job``."""
    try:
        yield
    except CrucibleError as error:
        marked = error.details.pop(_MARK, None)
        place = next((index for index, job in enumerate(jobs) if job.id == marked), None)
        if place is not None and len(jobs) > 1:
            name = f" ({jobs[place].name})" if jobs[place].name else ""
            error.message = f"jobs[{place}]{name}: {error.message}"
            error.details["job"] = place
        raise
