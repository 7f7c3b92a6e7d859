"""The process of an isolated function. It reads a request from stdin and writes lines of JSON to stdout.

Whatever the function prints goes to stderr. The process ends, with its whole group, when its parent does.
"""

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from backends.python.catalog import Catalog
from backends.python.invocation import Invocation, Raised, outcome_of
from backends.python.settings import PythonSettings
from crucible.backend import CommandProgress
from crucible.errors import CrucibleError
from nsai_work.functions import CancelFlag


class _Channel:
    """The parent's end of stdout, which the function cannot reach by printing."""

    def __init__(self) -> None:
        self._file = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._lock = threading.Lock()

    def send(self, message: dict[str, JsonValue]) -> None:
        """Write a message. A parent that no longer reads is no error."""
        line = json.dumps(message)
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
            except OSError:
                return

    def report(self, progress: CommandProgress) -> None:
        """Send progress."""
        self.send({"progress": progress.model_dump(mode="json")})


def _read_request(cancel: CancelFlag) -> dict[str, Any]:
    """Read the request. From then on, the end of stdin is the end of the parent, and of this process group."""
    source = os.dup(0)
    nowhere = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nowhere, 0)
    os.close(nowhere)
    with os.fdopen(source, "rb", closefd=False) as file:
        request: dict[str, Any] = json.loads(file.readline())

    def watch() -> None:
        # not through a file object, whose lock would be held when the interpreter ends
        os.read(source, 1)
        cancel.set()
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
    return request


def main() -> None:
    """Run the function of the request and send its outcome."""
    channel, cancel = _Channel(), CancelFlag()
    request = _read_request(cancel)
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
