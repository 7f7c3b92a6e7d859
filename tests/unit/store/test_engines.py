"""Database addresses: parsed, or refused without a password in the message; the log of engines."""

import logging
from pathlib import Path

import pytest
from sqlalchemy import make_url

from crucible.errors import InvalidRequest
from nsai_work.store import parse_url
from nsai_work.store.engine.engines import make_engine


@pytest.mark.parametrize(
    ("url", "driver"),
    [
        ("sqlite:///jobs.db", "sqlite"),
        ("postgresql://u:p@h/db", "postgresql+psycopg"),
        ("postgresql+psycopg://u@h:5/db", "postgresql+psycopg"),
    ],
)
def test_known_addresses(url: str, driver: str) -> None:
    """``postgresql`` means psycopg 3."""
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
    """The error names the setting and the allowed addresses, never a password."""
    with pytest.raises(InvalidRequest, match="database_url") as caught:
        parse_url(url)
    assert "hush" not in str(caught.value)


def test_a_log_has_no_events_of_the_pool(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its name is among SQLAlchemy's: their information is left out, their warnings are not."""
    caplog.set_level(logging.INFO)
    engine = make_engine(make_url(f"sqlite:///{tmp_path / 'jobs.db'}"))
    with engine.connect() as connection:
        connection.invalidate()
    engine.dispose()

    assert caplog.records == []
    assert engine.pool.logger.isEnabledFor(logging.WARNING)
