"""Classification of database errors: one table for SQLite and PostgreSQL."""

import os
from contextlib import ExitStack
from enum import StrEnum
from typing import Final

from sqlalchemy.exc import DBAPIError, IntegrityError, InterfaceError, OperationalError

from nsai_work.errors import StoreFull, StoreUnavailable, WorkError


class DbErrorKind(StrEnum):
    """Kind of a database error, which determines whether the operation is retried."""

    CONFLICT = "conflict"
    """Two transactions collided; the operation may be retried at once."""
    UNAVAILABLE = "unavailable"
    """The database does not answer; try again later."""
    FULL = "full"
    """No disk space; nothing was written."""
    BUG = "bug"
    """Any other error: never retried."""


_SQLSTATES: Final = {
    "40001": DbErrorKind.CONFLICT,  # serialization failure
    "40P01": DbErrorKind.CONFLICT,  # deadlock
    "55P03": DbErrorKind.CONFLICT,  # lock not available
    "23505": DbErrorKind.CONFLICT,  # unique violation: another transaction inserted the same key
    "23503": DbErrorKind.CONFLICT,  # foreign key violation: another transaction deleted the referenced row
    "53100": DbErrorKind.FULL,
    "53200": DbErrorKind.UNAVAILABLE,
    "53300": DbErrorKind.UNAVAILABLE,  # too many connections
    "53400": DbErrorKind.UNAVAILABLE,  # a configured limit is exceeded
    "57014": DbErrorKind.UNAVAILABLE,  # canceled: the server's statement_timeout
    "57P01": DbErrorKind.UNAVAILABLE,  # admin shutdown
    "57P02": DbErrorKind.UNAVAILABLE,
    "57P03": DbErrorKind.UNAVAILABLE,  # cannot connect now
    "26000": DbErrorKind.UNAVAILABLE,  # prepared statement missing: see _POOLER
    "42P05": DbErrorKind.UNAVAILABLE,  # prepared statement exists already: likewise
    "58030": DbErrorKind.UNAVAILABLE,  # input or output failed
    "25P03": DbErrorKind.UNAVAILABLE,  # this process was frozen in a transaction, which the server has ended
    "25006": DbErrorKind.UNAVAILABLE,  # read-only: a standby, after a failover
}

_POOLER: Final = frozenset({"26000", "42P05"})
"""States that a pooler in transaction mode causes when statements are prepared behind it."""

_SQLITE_FILES: Final = 4
"""The files that SQLite opens at a time: the database, its log, the log's index, and their folder."""


def classify(error: DBAPIError) -> DbErrorKind:
    """The kind of a driver's error."""
    if error.connection_invalidated:
        return DbErrorKind.UNAVAILABLE
    state = getattr(error.orig, "sqlstate", None)
    if state is not None:
        return _SQLSTATES.get(state, DbErrorKind.UNAVAILABLE if state.startswith("08") else DbErrorKind.BUG)
    text = str(error.orig).lower()
    if "disk is full" in text:
        return DbErrorKind.FULL
    if "locked" in text or "busy" in text:
        return DbErrorKind.CONFLICT
    if isinstance(error, IntegrityError):
        return DbErrorKind.CONFLICT if "unique" in text or "foreign key" in text else DbErrorKind.BUG
    if any(words in text for words in ("unable to open", "disk i/o error", "readonly database")):
        return DbErrorKind.UNAVAILABLE
    if "psycopg" in type(error.orig).__module__ and isinstance(error, OperationalError | InterfaceError):
        return DbErrorKind.UNAVAILABLE
    return DbErrorKind.BUG


def to_work_error(kind: DbErrorKind, error: DBAPIError, where: str) -> WorkError:
    """The error to raise to the caller. ``where`` is the database's address without its password. The message has
    neither the statement nor its parameters."""
    reason = str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else type(error.orig).__name__
    reason = _with_cause(reason)
    if kind is DbErrorKind.FULL:
        return StoreFull(
            f"the disk of the job store is full; nothing was written; free some space and try again ({where})",
            details={"reason": reason},
        )
    if getattr(error.orig, "sqlstate", None) in _POOLER:
        return StoreUnavailable(
            f"a connection pooler does not keep prepared statements: {reason}; set prepared=off in the database "
            f"URL ({where})",
            details={"reason": reason},
        )
    return StoreUnavailable(f"the job store does not answer: {reason} ({where})", details={"reason": reason})


def _with_cause(reason: str) -> str:
    """SQLite does not say why it cannot open a file: find out whether too many are open."""
    if "unable to open" not in reason:
        return reason
    with ExitStack() as opened:
        try:
            for _ in range(_SQLITE_FILES):
                opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))
        except OSError as error:
            return f"{reason}: {error.strerror}"
    return reason
