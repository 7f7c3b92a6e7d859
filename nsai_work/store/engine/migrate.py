"""Schema migrations of the store's database.

A migration is one transaction under a lock: processes that start together run it once, and a failed one leaves
nothing behind.
"""

from pathlib import Path
from typing import Final

from sqlalchemy import Connection, Engine, inspect, text

from nsai_work.errors import StoreUnavailable

VERSION_TABLE: Final = "nsai_alembic_version"
HEAD: Final = "0020"
_LOCK: Final = 7_219_345_101


def upgrade(engine: Engine) -> None:
    """Create the tables, or migrate them to this version.

    Raises:
        StoreUnavailable: they belong to a newer version of nsai-work.
    """
    with engine.connect().execution_options(nsai_write=False) as connection, connection.begin():
        if current_version(connection) == HEAD:
            return
    with engine.connect() as connection, connection.begin():
        if connection.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        version = current_version(connection)
        if version != HEAD:
            _run_alembic(connection, version)


def check(engine: Engine) -> None:
    """Raise StoreUnavailable unless the tables have the version that this code needs."""
    with engine.connect().execution_options(nsai_write=False) as connection, connection.begin():
        require_version(connection)


def require_version(connection: Connection) -> None:
    """As ``check``, on a connection."""
    version = current_version(connection)
    if version != HEAD:
        found = "missing" if version is None else f"of version {version}"
        raise StoreUnavailable(
            f"the job store's tables are {found}, and {HEAD} is needed; run: nsai-work db upgrade",
            details={"version": version, "needed": HEAD},
        )


def current_version(connection: Connection) -> str | None:
    """The version of the existing tables; None if there are none."""
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    version: str | None = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()  # noqa: S608
    return version


def _run_alembic(connection: Connection, version: str | None) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parents[1] / "migrations").replace("%", "%%"))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise StoreUnavailable(
            f"the job store's tables have version {version!r}, which this version of nsai-work does not know; "
            "it is newer than this installation: upgrade nsai-work",
            details={"version": version},
        ) from error
