"""What a database error means: one table for SQLite and PostgreSQL."""

from enum import StrEnum
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from nsai_work.errors import StoreFull, StoreUnavailable, WorkError


class Fault(StrEnum):
    """What to do about a database error."""

    CONFLICT = "conflict"
    """Two transactions met; the same work may be tried again at once."""
    AWAY = "away"
    """The database does not answer; try again later."""
    FULL = "full"
    """No space; nothing was written."""
    BUG = "bug"
    """Anything else: not to be retried."""


_SQLSTATES: Final = {
    "40001": Fault.CONFLICT,  # serialization failure
    "40P01": Fault.CONFLICT,  # deadlock
    "55P03": Fault.CONFLICT,  # lock not available
    "23505": Fault.CONFLICT,  # the same unique key was entered at the same moment
    "23503": Fault.CONFLICT,  # what a row refers to went away at the same moment
    "53100": Fault.FULL,
    "53200": Fault.AWAY,
    "53300": Fault.AWAY,  # too many connections
    "57P01": Fault.AWAY,  # shut down by the administrator
    "57P02": Fault.AWAY,
    "57P03": Fault.AWAY,  # cannot connect now
    "25006": Fault.AWAY,  # read-only: a standby, after a fail-over
}


def classify(error: DBAPIError) -> Fault:
    """What this error means."""
    if error.connection_invalidated:
        return Fault.AWAY
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _SQLSTATES.get(state, Fault.AWAY if state.startswith("08") else Fault.BUG)
    text = str(error.orig).lower()
    if "disk is full" in text:
        return Fault.FULL
    if "locked" in text or "busy" in text:
        return Fault.CONFLICT
    if isinstance(error, IntegrityError):
        return Fault.CONFLICT if "unique" in text or "foreign key" in text else Fault.BUG
    if any(words in text for words in ("unable to open", "disk i/o error", "readonly database")):
        return Fault.AWAY
    if "psycopg" in type(error.orig).__module__ and isinstance(error, OperationalError | InterfaceError):
        return Fault.AWAY
    return Fault.BUG


def as_work_error(fault: Fault, error: DBAPIError, where: str) -> WorkError:
    """The error the caller gets. ``where`` is the database without its password; no statement, no parameter."""
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if fault is Fault.FULL:
        return StoreFull(
            f"the disk of the job store is full; nothing was written; free some space and try again ({where})",
            details={"reason": reason},
        )
    return StoreUnavailable(f"the job store does not answer: {reason} ({where})", details={"reason": reason})
