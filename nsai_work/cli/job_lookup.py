"""Finds a job by its ID, or by a unique prefix or suffix of its ID."""

from typing import TYPE_CHECKING

from crucible.errors import InvalidRequest
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import is_job_id

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store

MAX_SEARCHED_JOBS = 500
MAX_LISTED_MATCHES = 5
MIN_PART_LENGTH = 4


def find_job(store: "Store", text: str) -> "Job":
    """Return the job with this ID, or the only one of the newest 500 jobs whose ID starts or ends with ``text``.

    Raises:
        JobNotFound: no job matches.
        InvalidRequest: several jobs match.
    """
    if is_job_id(text):
        return store.get(text)
    try:
        return store.get(text)
    except JobNotFound:
        # too short a part could match some other job after a typing mistake
        if len(text) < MIN_PART_LENGTH:
            raise
    matches = [
        job for job in store.list_jobs(limit=MAX_SEARCHED_JOBS) if job.id.startswith(text) or job.id.endswith(text)
    ]
    if not matches:
        raise JobNotFound(
            f"ID: no job has the ID {text!r}, and none of the newest {MAX_SEARCHED_JOBS} IDs starts or ends with it"
        )
    if len(matches) > 1:
        shown = ", ".join(job.id for job in matches[:MAX_LISTED_MATCHES])
        raise InvalidRequest.of("ID", text, f"it matches {len(matches)} jobs ({shown}); give more characters")
    return matches[0]
