"""Job ids: UUID version 7 (RFC 9562), whose text order is the order of creation."""

import secrets
import uuid
from datetime import datetime


def new_job_id(now: datetime) -> str:
    """Generate the id of a job created at ``now``."""
    milliseconds = int(now.timestamp() * 1000) & (2**48 - 1)
    value = milliseconds << 80 | 0x7 << 76 | secrets.randbits(12) << 64 | 0b10 << 62 | secrets.randbits(62)
    return str(uuid.UUID(int=value))


def is_job_id(text: str) -> bool:
    """Return whether the text has the form of a job id."""
    try:
        return str(uuid.UUID(text)) == text
    except ValueError:
        return False


def short_id(job_id: str) -> str:
    """Return the end of a job's id, by which commands find it: ids begin with the time, so that their ends differ.

    An id of another form, which somebody chose, is returned whole.
    """
    return job_id[-8:] if is_job_id(job_id) else job_id
