"""Database errors: classified, and converted without a password in the message."""

import pytest
from sqlalchemy.exc import DBAPIError

from nsai_work.store.engine.db_errors import DbErrorKind, classify, to_work_error


class _Coded(Exception):
    """An error with an SQLSTATE, as a PostgreSQL driver raises it."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        pytest.param(_Coded("40P01"), DbErrorKind.CONFLICT, id="deadlock"),
        pytest.param(_Coded("08006"), DbErrorKind.UNAVAILABLE, id="connection-failure"),
        pytest.param(_Coded("57P01"), DbErrorKind.UNAVAILABLE, id="shut-down"),
        pytest.param(_Coded("57014"), DbErrorKind.UNAVAILABLE, id="statement-timeout"),
        pytest.param(_Coded("25006"), DbErrorKind.UNAVAILABLE, id="read-only"),
        pytest.param(_Coded("53100"), DbErrorKind.FULL, id="disk-full"),
        pytest.param(_Coded("42P01"), DbErrorKind.BUG, id="no-such-table"),
        pytest.param(Exception("database is locked"), DbErrorKind.CONFLICT, id="sqlite-locked"),
        pytest.param(Exception("database or disk is full"), DbErrorKind.FULL, id="sqlite-full"),
        pytest.param(Exception("unable to open database file"), DbErrorKind.UNAVAILABLE, id="sqlite-away"),
        pytest.param(Exception("near SELEC: syntax error"), DbErrorKind.BUG, id="sqlite-syntax"),
    ],
)
def test_errors_are_classified(error: Exception, kind: DbErrorKind) -> None:
    """Each error has one kind, and the converted error shows neither statement nor parameters."""
    wrapped = DBAPIError("SELECT hush", {"a": "hush"}, error)

    assert classify(wrapped) is kind
    assert "hush" not in str(to_work_error(kind, wrapped, "postgresql://h/db"))
