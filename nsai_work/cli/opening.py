"""The settings and the store of this process, opened when a command needs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.settings import Settings
    from nsai_work.store import Store


def read_settings() -> "Settings":
    """The settings of the environment; logs go to stderr from now on, warnings and worse unless asked for more.

    Raises:
        InvalidRequest: a variable is wrong; the error names it.
    """
    from nsai_work.logs import configure_logging
    from nsai_work.settings import Settings

    settings = Settings()
    chosen = "log_level" in settings.model_fields_set
    configure_logging(settings if chosen else settings.model_copy(update={"log_level": "warning"}))
    return settings


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
