"""Which job a person means. A script gives the whole id; a person may give its beginning or its end."""

from typing import TYPE_CHECKING

from crucible.errors import InvalidRequest
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import is_job_id

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store

RECENT = 500
SHORTEST = 4


def find_job(store: "Store", text: str) -> "Job":
    """The job with this id, or the one recent job (of the newest 500) whose id begins or ends so.

    Raises:
        JobNotFound: there is none.
        InvalidRequest: the text fits several.
    """
    if is_job_id(text):
        return store.get(text)
    try:
        return store.get(text)
    except JobNotFound:
        if len(text) < SHORTEST:
            raise
    fitting = [job for job in store.list_jobs(limit=RECENT) if job.id.startswith(text) or job.id.endswith(text)]
    if not fitting:
        raise JobNotFound(f"ID: no job has the id {text!r}, and none of the newest {RECENT} begins or ends so")
    if len(fitting) > 1:
        shown = ", ".join(job.id for job in fitting[:5])
        raise InvalidRequest.of("ID", text, f"it fits {len(fitting)} jobs ({shown}); give more of the id")
    return fitting[0]
