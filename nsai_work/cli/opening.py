"""The settings and the store of this process, opened when a command needs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.settings import Settings
    from nsai_work.store import Store


def read_settings() -> "Settings":
    """The settings of the environment. Raises InvalidRequest naming the variable that is wrong."""
    from nsai_work.settings import Settings

    return Settings()


def the_store(settings: "Settings | None" = None) -> "Store":
    """The store that the settings name; closed when the command ends.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    from nsai_work.connections import job_store

    return job_store(settings or read_settings())


def close_all() -> None:
    """Close what this process opened, if it opened anything."""
    import sys

    if "nsai_work.connections" in sys.modules:
        from nsai_work.connections import close_connections

        close_connections()
