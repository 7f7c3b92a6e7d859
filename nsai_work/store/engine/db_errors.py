"""What a database error means: one table for SQLite and PostgreSQL."""

from enum import StrEnum
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from nsai_work.errors import StoreFull, StoreUnavailable, WorkError


class DbErrorKind(StrEnum):
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
    "40001": DbErrorKind.CONFLICT,  # serialization failure
    "40P01": DbErrorKind.CONFLICT,  # deadlock
    "55P03": DbErrorKind.CONFLICT,  # lock not available
    "23505": DbErrorKind.CONFLICT,  # the same unique key was entered at the same moment
    "23503": DbErrorKind.CONFLICT,  # what a row refers to went away at the same moment
    "53100": DbErrorKind.FULL,
    "53200": DbErrorKind.AWAY,
    "53300": DbErrorKind.AWAY,  # too many connections
    "57P01": DbErrorKind.AWAY,  # shut down by the administrator
    "57P02": DbErrorKind.AWAY,
    "57P03": DbErrorKind.AWAY,  # cannot connect now
    "25006": DbErrorKind.AWAY,  # read-only: a standby, after a fail-over
}


def classify(error: DBAPIError) -> DbErrorKind:
    """What this error means."""
    if error.connection_invalidated:
        return DbErrorKind.AWAY
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _SQLSTATES.get(state, DbErrorKind.AWAY if state.startswith("08") else DbErrorKind.BUG)
    text = str(error.orig).lower()
    if "disk is full" in text:
        return DbErrorKind.FULL
    if "locked" in text or "busy" in text:
        return DbErrorKind.CONFLICT
    if isinstance(error, IntegrityError):
        return DbErrorKind.CONFLICT if "unique" in text or "foreign key" in text else DbErrorKind.BUG
    if any(words in text for words in ("unable to open", "disk i/o error", "readonly database")):
        return DbErrorKind.AWAY
    if "psycopg" in type(error.orig).__module__ and isinstance(error, OperationalError | InterfaceError):
        return DbErrorKind.AWAY
    return DbErrorKind.BUG


def as_work_error(fault: DbErrorKind, error: DBAPIError, where: str) -> WorkError:
    """The error the caller gets. ``where`` is the database without its password; no statement, no parameter."""
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    if fault is DbErrorKind.FULL:
        return StoreFull(
            f"the disk of the job store is full; nothing was written; free some space and try again ({where})",
            details={"reason": reason},
        )
    return StoreUnavailable(f"the job store does not answer: {reason} ({where})", details={"reason": reason})
