"""Finds a job by its ID, or by a unique prefix or suffix of its ID."""

from typing import TYPE_CHECKING

from crucible.errors import InvalidRequest
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import is_job_id

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store

MAX_LISTED_MATCHES = 5
MIN_PART_LENGTH = 4


def find_job(store: "Store", text: str) -> "Job":
    """Return the job with this ID, or the only one whose ID starts or ends with ``text``.

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
    matches = store.ids_like(text, limit=MAX_LISTED_MATCHES + 1)
    if not matches:
        raise JobNotFound(f"ID: no job has the ID {text!r}, and no ID starts or ends with it")
    if len(matches) > 1:
        shown = ", ".join(matches[:MAX_LISTED_MATCHES])
        count = len(matches) if len(matches) <= MAX_LISTED_MATCHES else f"more than {MAX_LISTED_MATCHES}"
        raise InvalidRequest.of("ID", text, f"it matches {count} jobs ({shown}); give more characters")
    return store.get(matches[0])
