"""The embedded transport: wake-ups as small files in a directory, for processes of one machine.

kombu's own filesystem transport takes whichever file lies first in one shared directory, also one that is still
being written, and sorts the whole directory for every message. Here a message appears by rename, so it is whole;
it is taken by rename, so one reader gets it; each queue has its directory, listed only when the last listing is
used up.
"""

import base64
import contextlib
import itertools
import logging
import os
import time
from collections import deque
from pathlib import Path
from queue import Empty
from typing import Any

from kombu.transport import TRANSPORT_ALIASES, virtual
from kombu.utils.json import dumps, loads

SCHEME = "spool"
MAX_FILE_BYTES = 1 << 20
LONGEST_DRAIN_S = 0.25
logger = logging.getLogger(__name__)
_count = itertools.count()


def register_spool() -> None:
    """Make ``spool:///directory`` URLs known to kombu."""
    TRANSPORT_ALIASES.setdefault(SCHEME, f"{__name__}:SpoolTransport")


class Channel(virtual.Channel):  # type: ignore[misc]  # kombu is untyped
    """Queues as directories."""

    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._seen: dict[str, deque[str]] = {}

    @property
    def _root(self) -> Path:
        return Path("/" + str(self.connection.client.virtual_host).lstrip("/"))

    def _folder(self, queue: str) -> Path:
        if not queue or queue.startswith(".") or "/" in queue or "\0" in queue:
            raise ValueError(f"{queue!r} cannot name a queue")
        return self._root / queue

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        folder = self._folder(queue)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _remove_litter(folder)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._folder(queue).is_dir()

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        folder = self._folder(queue)
        # .part names are skipped by readers; the rename makes the message visible as a whole
        name = f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_count):08d}"
        part = folder / f".{name}.part"
        try:
            part.write_bytes(dumps(message).encode())
        except FileNotFoundError:
            self._new_queue(queue)
            part.write_bytes(dumps(message).encode())
        part.rename(folder / f"{name}.msg")

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = self._folder(queue)
        seen = self._seen.setdefault(queue, deque())
        if not seen:
            seen.extend(_listing(folder))
        while seen:
            message = _take(folder / seen.popleft())
            if message is not None:
                return message
        raise Empty

    def _size(self, queue: str) -> int:
        return len(_listing(self._folder(queue)))

    def _purge(self, queue: str) -> int:
        return sum(_take(self._folder(queue) / name) is not None for name in _listing(self._folder(queue)))

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        with contextlib.suppress(OSError):
            self._folder(queue).rmdir()


class SpoolTransport(virtual.Transport):  # type: ignore[misc]  # kombu is untyped
    """Polls the spool directory; ``polling_interval`` comes from the transport options."""

    Channel = Channel
    default_port = 0
    polling_interval = 0.01
    driver_type = SCHEME
    driver_name = SCHEME

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver the next message. Gives up sooner than asked: a worker is to notice soon that it should stop."""
        super().drain_events(connection, timeout=min(timeout or LONGEST_DRAIN_S, LONGEST_DRAIN_S))

    def driver_version(self) -> str:
        """Nothing foreign drives this transport."""
        return "1"

    def verify_connection(self, connection: Any) -> bool:
        """A directory is always there to be made."""
        return True


def _listing(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(".msg") and entry.name[0] != ".")
    except FileNotFoundError:
        return []


def _take(path: Path) -> dict[str, Any] | None:
    """Own the file and return its message; None when another reader had it first or it is no message."""
    mine = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.rename(mine)
        size = mine.stat().st_size
        content = mine.read_bytes() if size <= MAX_FILE_BYTES else b""
        mine.unlink()
    except OSError:
        return None
    try:
        return _checked(loads(content))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("dropped %s (%d bytes): not a message: %s", path.name, size, type(error).__name__)
        return None


def _checked(message: Any) -> dict[str, Any]:
    """The message, if kombu can make one of it; a stray file must not stop a consumer."""
    properties = message["properties"]
    if not isinstance(message["body"], str) or properties.get("body_encoding") != "base64":
        raise TypeError
    base64.b64decode(message["body"], validate=True)
    if not isinstance(message["headers"], dict) or not isinstance(properties["delivery_info"], dict):
        raise TypeError
    if not isinstance(properties["delivery_tag"], str):
        raise TypeError
    return dict(message)


def _remove_litter(folder: Path) -> None:
    """Remove what a process that died between two renames left behind."""
    too_old = time.time() - 3600
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.startswith(".") and entry.stat().st_mtime < too_old:
                entry.unlink()
