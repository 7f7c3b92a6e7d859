"""The settings and the job store of a command."""

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nsai_work.settings import Settings
    from nsai_work.store import Store


def load_settings(*, quiet: bool = True, log_json: bool = False) -> "Settings":
    """Read the settings from the environment and set up logging to stderr.

    ``quiet`` logs only warnings and errors, unless NSAI_WORK_LOG_LEVEL is set. ``log_json`` logs JSON, whatever the
    environment says.

    Raises:
        InvalidRequest: a variable has an invalid value; the error names the variable.
    """
    from nsai_work.settings import Settings
    from nsai_work.telemetry.logs import configure_logging

    settings = Settings()
    if log_json:
        settings = settings.model_copy(update={"log_format": "json"})
    if quiet and "log_level" not in settings.model_fields_set:
        configure_logging(settings.model_copy(update={"log_level": "warning"}))
    else:
        configure_logging(settings)
    return settings


def get_store(settings: "Settings | None" = None) -> "Store":
    """Return the job store that the settings name. ``close_all`` closes it.

    Raises:
        StoreUnavailable: the database does not answer.
    """
    from nsai_work.client.connections import job_store

    return job_store(settings or load_settings())


def existing_store(settings: "Settings | None" = None, *, job_id: str | None = None) -> "Store":
    """Return the job store for a command that makes none. ``job_id`` is the job that the command is about.

    Raises:
        JobNotFound: there is no store yet.
        StoreUnavailable: the database does not answer.
    """
    from nsai_work.errors import JobNotFound

    settings = settings or load_settings()
    if missing := missing_store(settings):
        raise JobNotFound(f"no job {job_id!r}: {missing}" if job_id else missing)
    return get_store(settings)


def missing_store(settings: "Settings") -> str | None:
    """Return a sentence that says which file is missing if there is no store yet; else None."""
    from nsai_work.settings import sqlite_file

    file = sqlite_file(settings.database_url)
    if file is None or file.exists():
        return None
    return f"there is no job store yet: {file} does not exist; nsai-work submit and nsai-work run make it"


def close_all() -> None:
    """Close the connections that this process has opened."""
    if "nsai_work.client.connections" in sys.modules:
        from nsai_work.client.connections import close_connections

        close_connections()
