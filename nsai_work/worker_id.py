"""Who a worker process is, so that a dead one on this machine is noticed at once.

Elsewhere nothing but the lease tells whether a worker lives. Here /proc does, as long as it shows the very
processes that the identity speaks of: same boot, same process namespace.
"""

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class WorkerId:
    """A process, for all time: ``started`` is its start in clock ticks since ``boot``."""

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
        """A new identity for the process that calls."""
        pid = os.getpid()
        host = socket.gethostname().replace("/", "-") or "unknown"
        return cls(host, _boot(), _namespace(), pid, _started(pid) or 0, secrets.token_hex(4))

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The identity that a text stands for; None if it is none."""
        parts = text.split("/")
        if len(parts) != 6 or not parts[3].isdigit() or not parts[4].isdigit():
            return None
        return cls(parts[0], parts[1], parts[2], int(parts[3]), int(parts[4]), parts[5])


def known_dead(worker_id: str) -> bool:
    """Whether this machine can tell that the worker's process has ended. False whenever it cannot tell."""
    worker = WorkerId.parse(worker_id)
    if worker is None or not worker.boot or not worker.namespace or not worker.started:
        return False
    if (worker.host, worker.boot, worker.namespace) != (
        socket.gethostname().replace("/", "-"),
        _boot(),
        _namespace(),
    ):
        return False
    return _started(worker.pid) != worker.started


def _boot() -> str:
    return _read(_PROC / "sys/kernel/random/boot_id").strip()


def _namespace() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink()).replace("/", "-")
    except OSError:
        return ""


def _started(pid: int) -> int | None:
    """When a process started, in clock ticks since boot; None if there is no such process, or only its corpse."""
    text = _read(_PROC / str(pid) / "stat")
    # the name, in parentheses, may hold anything, so fields are counted from the last one
    fields = text.rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in ("Z", "X"):
        return None
    return int(fields[19])


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
