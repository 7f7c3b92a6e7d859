"""An isolated store: a home of its own, and no service."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from crucible.values.suggestions import known_names
from nsai_work.client.connections import close_connections, job_store
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import PREFIX, Settings

INTERVALS: Final = {"POLL_INTERVAL_S": "0.05", "SWEEP_INTERVAL_S": "0.05", "SHUTDOWN_GRACE_S": "1"}
"""Settings of an isolated store, so that no test waits for the intervals of a service."""

MAX_JOBS: Final = 100_000


@dataclass(frozen=True, slots=True)
class IsolatedStore:
    """A store for one test. ``settings`` are those that ``Settings()`` returns meanwhile."""

    settings: Settings

    @property
    def home(self) -> Path:
        """The folder of the database and of all files."""
        return self.settings.home

    def jobs(self, status: JobStatus | None = None) -> list[Job]:
        """Return the submitted jobs in order, in their current state."""
        from nsai_work.store.records import JobFilter

        page = job_store(self.settings).list_jobs(JobFilter(status=status), limit=MAX_JOBS)
        return page[::-1]


_active: list[IsolatedStore] = []


@contextmanager
def isolated_store(home: str | Path | None = None, **settings: str | float | bool) -> Iterator[IsolatedStore]:
    """Use an isolated store until the end of the context.

    The variables ``NSAI_WORK_DATABASE_URL``, ``_BROKER_URL`` and all others of the prefix are replaced by a home in
    ``home`` (by default a temporary folder that is deleted) and short intervals, also for processes that the test
    starts. ``settings`` are further fields of ``Settings``. Not for concurrent use by several threads: the
    environment is that of the process.

    Raises:
        TypeError: ``Settings`` has no such field.
        InvalidRequest: a setting is invalid.
    """
    for name in settings:
        if name not in Settings.model_fields:
            raise TypeError(f"Settings has no field {name!r}; {known_names(name, Settings.model_fields)}")
    given = {name.upper(): str(value) for name, value in settings.items()}
    with ExitStack() as stack:
        folder = Path(home) if home is not None else Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.enter_context(_environment({"HOME": str(folder.absolute()), **INTERVALS, **given}))
        # connections of before the context are opened again after it, with the environment of then
        close_connections()
        stack.callback(close_connections)
        store = IsolatedStore(Settings())
        store.settings.make_home()
        _active.append(store)
        stack.callback(_active.remove, store)
        yield store


def active_store() -> IsolatedStore:
    """Return the innermost isolated store.

    Raises:
        RuntimeError: there is none. No function of this package touches any other store.
    """
    if not _active:
        raise RuntimeError("no isolated store: use nsai_work.testing.isolated_store(), or its pytest fixture")
    return _active[-1]


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    try:
        for name in before:
            del os.environ[name]
        os.environ.update({f"{PREFIX}{name}": value for name, value in values.items()})
        yield
    finally:
        for name in [name for name in os.environ if name.startswith(PREFIX)]:
            del os.environ[name]
        os.environ.update(before)
