"""Settings: the one reader of the environment."""

from pathlib import Path

import pytest

from crucible.errors import InvalidRequest
from nsai_work.settings import Settings, redacted


def test_the_defaults_need_no_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without any variable but the home, database and broker are files under it."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path / "somewhere"))

    settings = Settings()

    assert settings.database_url == f"sqlite:///{tmp_path}/somewhere/nsai-work.db"
    assert settings.broker_url == f"spool://localhost{tmp_path}/somewhere/spool"
    assert settings.embedded_broker
    assert not (tmp_path / "somewhere").exists()


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("LEASE_TTL_S", "soon"),
        ("LEASE_TTL_S", "nan"),
        ("CONCURRENCY", "0"),
        ("POLL_INTERVAL_S", "-1"),
        ("BROKER_URL", "localhost:5672"),
        ("BROKER_URL", "sqs://x"),
        ("DATABASE_URL", "mysql://host/db"),
        ("DATABASE_URL", "nsai.db"),
        ("QUEUE_PREFIX", "../x"),
        ("LOG_LEVEL", "loud"),
    ],
)
def test_a_bad_value_names_its_variable(variable: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error says which variable is wrong, so that a user can correct it."""
    monkeypatch.setenv(f"NSAI_WORK_{variable}", value)

    with pytest.raises(InvalidRequest, match=f"NSAI_WORK_{variable}: "):
        Settings()


def test_passwords_are_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a repr nor an error repeats a URL's password."""
    monkeypatch.setenv("NSAI_WORK_BROKER_URL", "amqp://me:hunter2@host//")
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", "oracle://me:hunter2@host/x")

    with pytest.raises(InvalidRequest) as caught:
        Settings()
    monkeypatch.delenv("NSAI_WORK_DATABASE_URL")
    settings = Settings()

    assert "hunter2" not in f"{caught.value} {caught.value.details} {settings!r} {settings}"
    assert redacted(settings.broker_url) == "amqp://me:***@host//"


def test_the_driver_of_the_postgres_extra_is_filled_in() -> None:
    """People write postgresql://; what is installed is psycopg 3."""
    assert Settings(database_url="postgresql://h/d").database_url == "postgresql+psycopg://h/d"
