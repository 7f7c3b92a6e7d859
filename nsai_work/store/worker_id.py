"""The identity of a worker process."""

import os
import secrets
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A globally unique process identity. ``started`` is the start time in clock ticks since ``boot``."""

    host: str
    boot: str
    namespace: str
    pid: int
    started: int
    nonce: str

    def __str__(self) -> str:
        return "/".join((self.host, self.boot, self.namespace, str(self.pid), str(self.started), self.nonce))

    @classmethod
    def of_this_process(cls) -> Self:
        """Create an identity for the calling process."""
        pid = os.getpid()
        host = socket.gethostname().replace("/", "-") or "unknown"
        return cls(host, _boot(), _namespace(), pid, _started(pid) or 0, secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse an identity. Returns None if the text is not an identity."""
        parts = text.split("/")
        if len(parts) != 6 or not parts[3].isdigit() or not parts[4].isdigit():
            return None
        return cls(parts[0], parts[1], parts[2], int(parts[3]), int(parts[4]), parts[5])


def is_this_process(worker_id: str) -> bool:
    """Return whether a worker is, or was, part of the calling process."""
    worker, own = WorkerId.parse(worker_id), WorkerId.of_this_process()
    return worker is not None and replace(worker, nonce=own.nonce) == own


def _boot() -> str:
    return _read(_PROC / "sys/kernel/random/boot_id").strip()


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink()).replace("/", "-")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """Return a process's start time in clock ticks since boot; None if it does not exist or is a zombie."""
    text = _read(_PROC / str(pid) / "stat")
    # the process name may contain spaces and parentheses, so count fields from the last parenthesis
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
