"""Finds a job by its ID, or by a unique prefix or suffix of its ID."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store


def find_job(store: "Store", text: str) -> "Job":
    """Return the job with this ID, or the only one whose ID starts or ends with ``text``.

    Raises:
        JobNotFound: no job matches.
        InvalidRequest: several jobs match.
    """
    return store.find(text)
