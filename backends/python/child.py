"""The process of an isolated function. It reads a request from stdin and writes lines of JSON to stdout.

Whatever the function prints goes to stderr. The process ends, with its whole group, when its parent does, and when
its parent has stood still for so long that another worker may soon run the same function: the parent sends until
when the job is its own, and moves that time on for as long as it renews the lease.
"""

import faulthandler
import json
import os
import select
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from pydantic import JsonValue

from backends.python.catalog import Catalog
from backends.python.invocation import Invocation, Raised, outcome_of
from backends.python.settings import PythonSettings
from crucible.backend import CommandProgress
from crucible.errors import CrucibleError
from crucible.values.json_types import to_json
from nsai_work.functions import CancelFlag

STUCK_S: Final = 0.2
"""The time after which the process is ended from outside the interpreter, if a function does not let go of it."""


def encoded(message: dict[str, JsonValue]) -> str:
    """Encode a message. What its reader takes for no text, such as a lone surrogate in a traceback, is replaced."""
    return json.dumps(to_json(message))


class _Channel:
    """The parent's end of stdout, which the function cannot reach by printing."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: dict[str, JsonValue]) -> None:
        """Write a message. A parent that no longer reads is no error."""
        line = encoded(message)
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError:
                return

    def report(self, progress: CommandProgress) -> None:
        """Send progress."""
        self.send({"progress": progress.model_dump(mode="json")})


class _Parent:
    """The parent's end of stdin: the request, then times of the monotonic clock, one a line, which all processes of
    a machine share. The job is the parent's own until the newest of them."""

    def __init__(self) -> None:
        self._source = os.dup(0)
        nowhere = os.open(os.devnull, os.O_RDONLY)
        os.dup2(nowhere, 0)
        os.close(nowhere)
        self._unread = b""
        self._owned_until: float | None = None

    def read_request(self) -> dict[str, Any]:
        """Read the request."""
        while b"\n" not in self._unread:
            if not self._receive():
                raise SystemExit("the parent has ended")
        line, self._unread = self._unread.split(b"\n", 1)
        request: dict[str, Any] = json.loads(line)
        self._owned_until = request["owned_until"]
        return request

    def watch(self) -> None:
        """Return when the parent has ended, or the job may soon be another worker's."""
        while True:
            *lines, self._unread = self._unread.split(b"\n")
            if lines:
                self._owned_until = float(lines[-1])
            left_s = None if self._owned_until is None else max(self._owned_until - time.monotonic(), 0.0)
            if left_s is not None:
                # by a thread that needs no Python: a function may hold the interpreter, as a long sort does
                faulthandler.dump_traceback_later(left_s + STUCK_S, exit=True)
            if not select.select([self._source], [], [], left_s)[0] or not self._receive():
                return

    def _receive(self) -> bool:
        # not through a file object, whose lock would be held when the interpreter ends
        received = os.read(self._source, 65536)
        self._unread += received
        return bool(received)


def _end_with(parent: _Parent, cancel: CancelFlag) -> None:
    parent.watch()
    cancel.set()
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run the function of the request and send its outcome."""
    channel, cancel, parent = _Channel(), CancelFlag(), _Parent()
    request = parent.read_request()
    threading.Thread(target=_end_with, args=(parent, cancel), daemon=True).start()
    # in a thread: the handler interrupts the function, perhaps while it holds the flag's lock
    signal.signal(signal.SIGTERM, lambda *_: threading.Thread(target=cancel.set, daemon=True).start())
    invocation = Invocation(
        arguments=request["arguments"],
        job_id=request["job_id"],
        attempt=request["attempt"],
        folder=Path(request["folder"]),
        report=channel.report,
        cancel=cancel,
    )
    try:
        function = Catalog(PythonSettings(allow=tuple(request["allow"]))).load(request["name"])
        outcome = outcome_of(invocation, function)
    except CrucibleError as error:
        outcome = Raised(error)
    if isinstance(outcome, Raised):
        channel.send({"failure": outcome.error.failure().model_dump(mode="json"), "traceback": outcome.traceback})
    else:
        channel.send({"result": outcome})
    sys.stdout.flush()


if __name__ == "__main__":
    main()
