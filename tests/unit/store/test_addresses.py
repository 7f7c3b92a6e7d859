"""Database addresses and errors: understood, or refused without giving anything away."""

import pytest
from sqlalchemy.exc import DBAPIError

from crucible.errors import InvalidRequest
from nsai_work.store import parse_url
from nsai_work.store.engine.db_errors import DbErrorKind, as_work_error, classify


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///jobs.db", "sqlite"),
        ("postgresql://u:p@h/db", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h:5/db", "postgresql+psycopg"),
    ],
)
def test_known_addresses(url: str, driver: str) -> None:
    """PostgreSQL means psycopg 3 here."""
    assert parse_url(url).drivername == driver


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:hush@h/db",
        "sqlite://",
        "sqlite:///:memory:",
        "hush hush",
        "postgresql+x://",
        "postgresql://u:hush@h/d?prepared=x",
    ],
)
def test_other_addresses_are_refused(url: str) -> None:
    """The error names the setting and what is allowed, never a password."""
    with pytest.raises(InvalidRequest, match="database_url") as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)


class _Coded(Exception):
    """What a PostgreSQL driver raises: an error with a code."""

    def __init__(self, sqlstate: str) -> None:
        super().__init__(sqlstate)
        self.sqlstate = sqlstate


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        pytest.param(_Coded("40P01"), DbErrorKind.CONFLICT, id="deadlock"),
        pytest.param(_Coded("08006"), DbErrorKind.AWAY, id="connection-failure"),
        pytest.param(_Coded("57P01"), DbErrorKind.AWAY, id="shut-down"),
        pytest.param(_Coded("53100"), DbErrorKind.FULL, id="disk-full"),
        pytest.param(_Coded("42P01"), DbErrorKind.BUG, id="no-such-table"),
        pytest.param(Exception("database is locked"), DbErrorKind.CONFLICT, id="sqlite-locked"),
        pytest.param(Exception("database or disk is full"), DbErrorKind.FULL, id="sqlite-full"),
        pytest.param(Exception("unable to open database file"), DbErrorKind.AWAY, id="sqlite-away"),
        pytest.param(Exception("near SELEC: syntax error"), DbErrorKind.BUG, id="sqlite-syntax"),
    ],
)
def test_what_a_database_error_means(error: Exception, fault: DbErrorKind) -> None:
    """Each error leads to one thing to do, and what the caller gets shows no statement and no parameter."""
    wrapped = DBAPIError("SELECT hush", {"a": "hush"}, error)

    assert classify(wrapped) is fault
    assert "hush" not in str(as_work_error(fault, wrapped, "postgresql://h/db"))
