"""The tables come from the migrations, whoever starts first and how many start at once."""

import threading
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import text

from nsai_work.errors import StoreUnavailable
from nsai_work.store import migrate_store, open_store
from nsai_work.store.engine import migrate as migrating
from nsai_work.store.engine.migrate import HEAD, VERSION_TABLE
from nsai_work.store.schema import metadata


def test_migrations_and_schema_agree(url: str) -> None:
    """What the migrations make is what the code expects."""
    store = open_store(url)
    store.ping()
    with store.database.transaction(write=False) as tx:
        context = MigrationContext.configure(
            tx.connection, opts={"version_table": VERSION_TABLE, "compare_server_default": False}
        )
        differences = compare_metadata(context, metadata)
    store.close()

    assert differences == []


def test_the_newest_migration_is_the_one_the_code_needs() -> None:
    """HEAD, which is compared at every start, is the head of the scripts."""
    scripts = ScriptDirectory(str(Path(migrating.__file__).parent / "migrations"))

    assert scripts.get_current_head() == HEAD


@pytest.fixture(params=["sqlite", pytest.param("schema", id="postgres", marks=pytest.mark.postgres)])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bare.db"
    found: str = request.getfixturevalue("schema_url")
    return found


def test_many_may_start_at_once(bare_url: str) -> None:
    """Threads that all find no tables do not get into each other's way."""
    errors: list[BaseException] = []

    def start() -> None:
        try:
            migrate_store(bare_url)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert errors == []


def test_without_leave_no_tables_are_made(bare_url: str) -> None:
    """migrate=False leaves the database to its administrator, and says what is missing."""
    store = open_store(bare_url, migrate=False)

    with pytest.raises(StoreUnavailable, match="nsai-work db upgrade"):
        store.ping()
    store.close()


def test_tables_of_a_newer_version_are_refused(url: str) -> None:
    """An old installation does not touch what it does not understand."""
    migrate_store(url)
    store = open_store(url)
    store.database.run(lambda tx: tx.connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    store.close()

    older = open_store(url)
    with pytest.raises(StoreUnavailable, match="newer than this installation"):
        older.ping()
    older.close()
