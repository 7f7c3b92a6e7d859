"""The embedded kombu transport: messages are files in a spool directory, for the processes of one machine.

kombu's filesystem transport delivers files that are still being written, and sorts its one directory for every
message. Here each queue has its own directory, which is listed only once the previous listing is consumed. A
message is created by rename, so it is complete, and taken by rename, so one reader receives it. Readers are told of
messages by their doorbells, so that idle ones need not list the directories all the time.
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

from crucible.runtime.monotonic import monotonic
from nsai_work.dispatch.doorbell import Doorbell, ring_all
from nsai_work.files.home import make_private_file, make_private_folder

SCHEME = "spool"
MAX_FILE_BYTES = 1 << 20
MAX_DRAIN_S = 0.25
logger = logging.getLogger(__name__)
_numbers = itertools.count()


def register_spool() -> None:
    """Register the transport with kombu, for ``spool:///directory`` URLs."""
    TRANSPORT_ALIASES.setdefault(SCHEME, f"{__name__}:SpoolTransport")


class Channel(virtual.Channel):  # type: ignore[misc]  # kombu is untyped
    """A channel whose queues are directories."""

    do_restore = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._listed: dict[str, deque[str]] = {}

    @property
    def _root(self) -> Path:
        return _spool_of(self.connection.client)

    def _folder(self, queue: str) -> Path:
        if not queue or queue.startswith(".") or "/" in queue or "\0" in queue:
            raise ValueError(f"{queue!r} cannot name a queue")
        return self._root / queue

    def _new_queue(self, queue: str, **kwargs: Any) -> None:
        folder = self._folder(queue)
        make_private_folder(folder)
        _remove_leftovers(folder)

    def _has_queue(self, queue: str, **kwargs: Any) -> bool:
        return self._folder(queue).is_dir()

    def _put(self, queue: str, message: Any, **kwargs: Any) -> None:
        folder = self._folder(queue)
        # readers skip .part files; the rename makes the complete message visible
        name = f"{time.monotonic_ns():020d}-{os.getpid()}-{next(_numbers):08d}"
        part = folder / f".{name}.part"
        try:
            _write(part, message)
        except FileNotFoundError:
            self._new_queue(queue)
            _write(part, message)
        part.rename(folder / f"{name}.msg")
        ring_all(self._root)

    def _get(self, queue: str, timeout: float | None = None) -> Any:
        folder = self._folder(queue)
        names = self._listed.setdefault(queue, deque())
        if not names:
            names.extend(_message_names(folder))
        while names:
            message = _take(folder / names.popleft())
            if message is not None:
                return message
        raise Empty

    def _size(self, queue: str) -> int:
        return len(_message_names(self._folder(queue)))

    def _purge(self, queue: str) -> int:
        return sum(_take(self._folder(queue) / name) is not None for name in _message_names(self._folder(queue)))

    def _delete(self, queue: str, *args: Any, **kwargs: Any) -> None:
        self._purge(queue)
        with contextlib.suppress(OSError):
            self._folder(queue).rmdir()


class SpoolTransport(virtual.Transport):  # type: ignore[misc]  # kombu is untyped
    """A transport that looks at the spool directory when its doorbell rings, and every ``MAX_DRAIN_S``; every
    ``polling_interval`` seconds (a transport option) where the file system has no named pipes."""

    Channel = Channel
    default_port = 0
    polling_interval = 0.01
    driver_type = SCHEME
    driver_name = SCHEME

    def __init__(self, client: Any, **options: Any) -> None:
        super().__init__(client, **options)
        self._doorbell: Doorbell | None = None
        self._has_pipes = True

    def drain_events(self, connection: Any, timeout: float | None = None) -> None:
        """Deliver the next message. Waits for at most ``MAX_DRAIN_S``, so that a worker soon notices a stop."""
        # before the first look: a message that comes after it rings
        doorbell = self._open_doorbell()
        timeout_s = min(timeout or MAX_DRAIN_S, MAX_DRAIN_S)
        ends_at = monotonic() + timeout_s
        while True:
            with contextlib.suppress(Empty):
                self.cycle.get(self._deliver, timeout=timeout_s)
                return
            left_s = ends_at - monotonic()
            if left_s <= 0:
                raise TimeoutError
            if doorbell is None:
                time.sleep(min(left_s, self.polling_interval))
            else:
                doorbell.wait(left_s)

    def _open_doorbell(self) -> Doorbell | None:
        if self._doorbell is not None and not self._doorbell.is_reachable:
            self._close_doorbell()
        if self._doorbell is None and self._has_pipes:
            try:
                self._doorbell = Doorbell(_spool_of(self.client))
            except OSError as error:
                self._has_pipes = False
                logger.info("no named pipes in the spool, which is polled instead: %s", error.strerror)
        return self._doorbell

    def _close_doorbell(self) -> None:
        doorbell, self._doorbell = self._doorbell, None
        if doorbell is not None:
            doorbell.close()

    def close_connection(self, connection: Any) -> None:
        """Close the channels and the doorbell."""
        super().close_connection(connection)
        self._close_doorbell()

    def driver_version(self) -> str:
        """Return the transport's own version: it has no client library."""
        return "1"

    def verify_connection(self, connection: Any) -> bool:
        """Return True: a missing directory is created on use."""
        return True


def _spool_of(client: Any) -> Path:
    return Path("/" + str(client.virtual_host).lstrip("/"))


def _write(path: Path, message: Any) -> None:
    make_private_file(path).write_bytes(dumps(message).encode())


def _message_names(folder: Path) -> list[str]:
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name for entry in entries if entry.name.endswith(".msg") and entry.name[0] != ".")
    except FileNotFoundError:
        return []


def _take(path: Path) -> dict[str, Any] | None:
    """Claim the file by rename and return its message. None if another reader was first, or if it is malformed."""
    claimed = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.rename(claimed)
        size = claimed.stat().st_size
        content = claimed.read_bytes() if size <= MAX_FILE_BYTES else b""
        claimed.unlink()
    except OSError:
        return None
    try:
        return _validated(loads(content))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        logger.warning("dropped malformed message %s (%d bytes): %s", path.name, size, type(error).__name__)
        return None


def _validated(message: Any) -> dict[str, Any]:
    """Return the message if kombu can read it; a stray file must not stop a consumer."""
    properties = message["properties"]
    if not isinstance(message["body"], str) or properties.get("body_encoding") != "base64":
        raise TypeError
    base64.b64decode(message["body"], validate=True)
    if not isinstance(message["headers"], dict) or not isinstance(properties["delivery_info"], dict):
        raise TypeError
    if not isinstance(properties["delivery_tag"], str):
        raise TypeError
    return dict(message)


def _remove_leftovers(folder: Path) -> None:
    """Remove the old files of processes that died between two renames."""
    oldest = time.time() - 3600
    for entry in folder.iterdir():
        with contextlib.suppress(OSError):
            if entry.name.startswith(".") and entry.stat().st_mtime < oldest:
                entry.unlink()
