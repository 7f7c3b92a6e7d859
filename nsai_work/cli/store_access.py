"""The settings and the store of this process, opened when a command needs them."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.settings import Settings
    from nsai_work.store import Store


def read_settings(*, quiet: bool = True) -> "Settings":
    """The settings of the environment; logs go to stderr from now on, if ``quiet`` only warnings and worse unless
    NSAI_WORK_LOG_LEVEL asks for more.

    Raises:
        InvalidRequest: a variable is wrong; the error names it.
    """
    from nsai_work.logs import configure_logging
    from nsai_work.settings import Settings

    settings = Settings()
    if quiet and "log_level" not in settings.model_fields_set:
        configure_logging(settings.model_copy(update={"log_level": "warning"}))
    else:
        configure_logging(settings)
    return settings


def the_store(settings: "Settings | None" = None) -> "Store":
    """The store that the settings name; closed when the command ends.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    from nsai_work.client.connections import job_store

    return job_store(settings or read_settings())


def close_all() -> None:
    """Close what this process opened, if it opened anything."""
    import sys

    if "nsai_work.client.connections" in sys.modules:
        from nsai_work.client.connections import close_connections

        close_connections()
