"""Presence: a lock that a worker holds for as long as its process lives, by which others notice its death at once.

With SQLite it is a lock on a file beside the database, which the kernel releases when the process has ended, in
whichever namespace. With PostgreSQL it is an advisory lock of the worker's session, which ends with the process,
but also when the connection breaks. A worker behind a connection pooler has no session, and so no presence.
"""

import fcntl
import hashlib
import os
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sqlalchemy import Connection, text

from crucible.runtime.forks import reset_after_fork
from nsai_work.files.home import make_private_folder

FOLDER_SUFFIX: Final = "-workers"
"""The suffix of the folder with the lock files: it is beside the database file, and has its name."""

_HELD_KEYS: Final = text(
    "SELECT classid::bigint << 32 | objid::bigint FROM pg_locks"
    " WHERE locktype = 'advisory' AND objsubid = 1 AND granted"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)


def session_key(worker_id: str) -> int:
    """The key of a worker's advisory lock: 64 bits, signed."""
    return int.from_bytes(_digest(worker_id)[:8], signed=True)


def hold_session(key: int) -> str:
    """The statement that acquires a session's presence. It never waits: the lock is shared, so that a worker may
    hold it on a new connection before the server has noticed the end of the old one."""
    return f"SELECT pg_try_advisory_lock_shared({key})"


def release_session(key: int) -> str:
    """The statement that ends it."""
    return f"SELECT pg_advisory_unlock_shared({key})"


def absent_sessions(connection: Connection, worker_ids: Collection[str]) -> frozenset[str]:
    """Those of the workers that hold no advisory lock (PostgreSQL)."""
    held = set(connection.execute(_HELD_KEYS).scalars()) if worker_ids else set()
    return frozenset(worker_id for worker_id in worker_ids if session_key(worker_id) not in held)


def ended_processes(database_file: Path, worker_ids: Collection[str]) -> frozenset[str]:
    """Those of the workers whose lock file exists and is not locked (SQLite)."""
    return frozenset(worker_id for worker_id in worker_ids if _is_released(_lock_file(database_file, worker_id)))


def remove_released(database_file: Path, keep: Collection[str]) -> None:
    """Delete the lock files of processes that have ended, except those of the workers in ``keep``."""
    kept = {_lock_file(database_file, worker_id) for worker_id in keep}
    for file in _folder(database_file).glob("*.lock"):
        if file not in kept:
            _is_released(file, remove=True)


@dataclass
class ProcessLock:
    """The locked file of a worker process (SQLite). A forked child does not inherit it."""

    database_file: Path
    worker_id: str
    _descriptor: int | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        # the lock belongs to the open file: it would outlive this process in a child that keeps it open
        reset_after_fork(self._close)

    @property
    def held(self) -> bool:
        """The file is locked by this process."""
        return self._descriptor is not None

    def acquire(self) -> None:
        """Create and lock the file. Raises OSError."""
        file = _lock_file(self.database_file, self.worker_id)
        make_private_folder(file.parent)
        while self._descriptor is None:
            descriptor = os.open(file, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                # an observer may have deleted it between the two calls
                if _is_at(descriptor, file):
                    self._descriptor, descriptor = descriptor, -1
            finally:
                if descriptor >= 0:
                    os.close(descriptor)

    def release(self) -> None:
        """Delete the file, and unlock it. Idempotent."""
        if self._descriptor is not None:
            with suppress(OSError):
                _lock_file(self.database_file, self.worker_id).unlink(missing_ok=True)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)


def _is_released(file: Path, *, remove: bool = False) -> bool:
    try:
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        # without a file nothing is known: the worker may be of an older version
        return False
    try:
        # shared, so that two observers do not take each other for the worker
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        if remove:
            file.unlink(missing_ok=True)
    except OSError:
        return False
    finally:
        os.close(descriptor)
    return True


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.stat())
    except OSError:
        return False


def _folder(database_file: Path) -> Path:
    return database_file.with_name(database_file.name + FOLDER_SUFFIX)


def _lock_file(database_file: Path, worker_id: str) -> Path:
    return _folder(database_file) / f"{_digest(worker_id).hex()[:32]}.lock"


def _digest(worker_id: str) -> bytes:
    return hashlib.sha256(f"nsai-work/worker/{worker_id}".encode()).digest()
