"""The store and settings of this process, opened when a command needs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.settings import Settings
    from nsai_work.store import Store


def read_settings() -> "Settings":
    """The settings of the environment. Raises InvalidRequest naming the variable that is wrong."""
    from nsai_work.settings import Settings

    return Settings()


def open_job_store(settings: "Settings | None" = None) -> "Store":
    """The store these settings name.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    from nsai_work.clock import SystemClock
    from nsai_work.store import open_store

    settings = settings or read_settings()
    if settings.database_url.startswith("sqlite"):
        settings.make_home()
    return open_store(settings.database_url, SystemClock())
