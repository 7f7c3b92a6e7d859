"""Database addresses: parsed, or refused without a password in the message."""

import pytest

from crucible.errors import InvalidRequest
from nsai_work.store import parse_url


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
