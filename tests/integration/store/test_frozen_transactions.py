"""Transactions of a process that is frozen in the middle of them: they hold nobody up for long."""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError

from nsai_work.store.engine import engines
from nsai_work.store.engine.db_errors import DbErrorKind, classify
from tests.rig import new_database

pytestmark = pytest.mark.postgres


@pytest.fixture
def engine(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An engine whose transactions may wait for half a second, and a table with a row."""
    monkeypatch.setattr(engines, "_FROZEN_MS", 500)
    with new_database(postgres_url) as url:
        made = engines.make_engine(make_url(url))
        with made.begin() as connection:
            connection.execute(text("CREATE TABLE held (n integer)"))
            connection.execute(text("INSERT INTO held VALUES (1)"))
        yield made
        made.dispose()


def test_the_locks_of_a_frozen_process_are_released(engine: Engine) -> None:
    """Its next statement fails as when the database is away, which is tried again."""
    with engine.connect() as frozen:
        frozen.execute(text("UPDATE held SET n = 2"))
        with engine.begin() as other:
            other.execute(text("SET LOCAL lock_timeout = '60s'"))
            other.execute(text("UPDATE held SET n = n + 10"))

        with pytest.raises(DBAPIError) as caught:
            frozen.execute(text("SELECT 1"))

    assert classify(caught.value) is DbErrorKind.UNAVAILABLE
    with engine.connect() as connection:
        assert connection.execute(text("SELECT n FROM held")).scalar() == 11
