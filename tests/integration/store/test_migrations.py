"""Migrations create the tables, whichever process starts first and however many start at once."""

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from nsai_work.errors import StoreUnavailable
from nsai_work.store import migrate_store, open_store
from nsai_work.store.engine import migrate as migrating
from nsai_work.store.engine.engines import make_engine, parse_url
from nsai_work.store.engine.migrate import HEAD, VERSION_TABLE
from nsai_work.store.schema import metadata
from tests.migrated_tables import replay_migrations, run_migrations

SCRIPTS = Path(migrating.__file__).parents[1] / "migrations"


def test_migrations_and_schema_agree(url: str) -> None:
    """The migrated tables equal the schema."""
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
    """HEAD, which is compared at every start, is the newest revision of the scripts."""
    scripts = ScriptDirectory(str(SCRIPTS))

    assert scripts.get_current_head() == HEAD


@pytest.fixture(autouse=True)
def _migrations_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests replay them."""
    monkeypatch.setattr(migrating, "_run_alembic", run_migrations)


@pytest.fixture(params=["sqlite", pytest.param("schema", id="postgres", marks=pytest.mark.postgres)])
def bare_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of a database without any tables."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/bare.db"
    found: str = request.getfixturevalue("schema_url")
    return found


def test_many_may_start_at_once(bare_url: str) -> None:
    """Threads that find no tables at the same time all succeed."""
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


def test_migrate_false_creates_no_tables(bare_url: str) -> None:
    """migrate=False leaves migrations to the administrator, and the error names the missing version."""
    store = open_store(bare_url, migrate=False)

    with pytest.raises(StoreUnavailable, match="nsai-work db upgrade"):
        store.ping()
    store.close()


def test_tables_of_a_newer_version_are_refused(url: str) -> None:
    """An old installation does not write to tables that it does not know."""
    migrate_store(url)
    store = open_store(url)
    store.database.run(lambda tx: tx.connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")))
    store.close()

    older = open_store(url)
    with pytest.raises(StoreUnavailable, match="newer than this installation"):
        older.ping()
    older.close()


OLD_ROWS = """
INSERT INTO nsai_lanes (id, key, tenant_id, rank, kind, model, active)
VALUES (1, 'k', 't', 2, 'training_step', '', true);
INSERT INTO nsai_jobs (seq, id, tenant_id, namespace, kind, backend, rank, lane_id, position, status, attempt,
    epoch, crashes, progress, beat, model, created_at, error)
VALUES (7, 'old', 't', 'n', 'training_step', 'fake', 2, 1, 7, 'failed', 1, 3, 0, 0, 0, '', 1,
    '{"category":"resource","code":"worker_lost","message":"says \\"epoch\\": 1","details":{"epoch":3}}');
INSERT INTO nsai_attempts (job_seq, epoch, attempt, worker_id, backend, started_at)
VALUES (7, 3, 1, 'w', 'fake', 1);
INSERT INTO nsai_events (seq, job_seq, at, name, data)
VALUES (1, 7, 1, 'job.running', '{"to":"running","epoch":3}');
INSERT INTO nsai_events (seq, job_seq, at, name, data)
VALUES (2, 7, 1, 'step.completed', '{"step":1,"epoch":4}');
INSERT INTO nsai_steps (job_seq, step, generation, pass_epoch, loss, tokens, learning_rate, metrics, recorded_at)
VALUES (7, 1, 1, 4, 0.5, 1, 0.1, '{}', 1);
"""
NEW_ROWS = {
    "SELECT fence FROM nsai_jobs": [3],
    "SELECT error FROM nsai_jobs": [
        '{"category":"resource","code":"worker_lost","message":"says \\"epoch\\": 1","details":{"fence":3}}'
    ],
    "SELECT fence FROM nsai_attempts": [3],
    "SELECT epoch FROM nsai_steps": [4],
    "SELECT data FROM nsai_events ORDER BY seq": ['{"to":"running","fence":3}', '{"step":1,"epoch":4}'],
}


@contextmanager
def _bare(url: str) -> Iterator[Connection]:
    """A transaction on a database whose tables are left unchanged."""
    engine = make_engine(parse_url(url))
    with engine.connect() as connection, connection.begin():
        yield connection
    engine.dispose()


def _alembic(run: Callable[[Config, str], None], connection: Connection, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(SCRIPTS))
    config.attributes["connection"] = connection
    run(config, revision)


def test_the_fencing_token_gets_its_name_and_keeps_its_values(bare_url: str) -> None:
    """0003 renames columns and keys of events; a pass over the data stays an epoch; the downgrade reverts both."""
    with _bare(bare_url) as connection:
        _alembic(command.upgrade, connection, "0002")
        for statement in OLD_ROWS.split(";\n"):
            if statement.strip():
                connection.exec_driver_sql(statement)

    migrate_store(bare_url)

    with _bare(bare_url) as connection:
        found = {query: list(connection.execute(text(query)).scalars()) for query in NEW_ROWS}
        assert found == NEW_ROWS
        _alembic(command.downgrade, connection, "0002")
        assert connection.execute(text("SELECT epoch, position FROM nsai_jobs")).one() == (3, 7)
        assert connection.execute(text("SELECT pass_epoch FROM nsai_steps")).scalar() == 4


def test_the_store_is_not_upgraded_beside_a_running_worker(bare_url: str) -> None:
    """A worker of the version before would write columns that are gone; a stopped one does not matter."""
    now = int(time.time() * 1_000_000)
    with _bare(bare_url) as connection:
        _alembic(command.upgrade, connection, "0002")
        connection.exec_driver_sql(
            "INSERT INTO nsai_workers (id, host, pid, version, backends, started_at, seen_at)"
            f" VALUES ('host:1', 'host', 1, '0.1', '{{}}', {now}, {now})"
        )

    with pytest.raises(StoreUnavailable, match="with the workers stopped; stop host:1"):
        migrate_store(bare_url)

    with _bare(bare_url) as connection:
        connection.exec_driver_sql(f"UPDATE nsai_workers SET stopped_at = {now}")
    migrate_store(bare_url)


def test_a_replay_leaves_what_the_migrations_leave(tmp_path: Path) -> None:
    """The same statements made the tables, and the same rows are in them."""
    migrate_store(f"sqlite:///{tmp_path}/migrated.db")
    replay_migrations()
    migrate_store(f"sqlite:///{tmp_path}/replayed.db")

    dumps = []
    for name in ("migrated.db", "replayed.db"):
        with closing(sqlite3.connect(tmp_path / name)) as database:
            dumps.append(list(database.iterdump()))
    migrated, replayed = dumps
    assert len(migrated) > 20
    assert migrated == replayed
