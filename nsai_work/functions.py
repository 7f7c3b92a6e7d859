"""The interface of a function run by the ``python`` backend: ``Context``, for progress, cancellation and files.

A function receives it in a parameter with this annotation::

    def train(rows: int, context: Context) -> dict[str, object]:
        for row in range(rows):
            context.check()
            context.progress(done=row, total=rows)
        return {"rows": rows}
"""

import threading
from collections.abc import Callable
from pathlib import Path

from crucible.backend import CommandProgress
from crucible.errors import Canceled


class CancelFlag:
    """A stop request to a function. Thread-safe."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self._lock = threading.Lock()
        self._callback: Callable[[], None] | None = None

    def set(self) -> None:
        """Request the stop, and call the callback if there is one."""
        with self._lock:
            first = not self._event.is_set()
            self._event.set()
            callback = self._callback if first else None
        if callback is not None:
            callback()

    def is_set(self) -> bool:
        """Return whether the stop was requested."""
        return self._event.is_set()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the request; return whether it arrived in time."""
        return self._event.wait(timeout_s)

    def on_set(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` when the stop is requested; immediately, if it was already."""
        with self._lock:
            self._callback = callback
            already = self._event.is_set()
        if already:
            callback()


class Context:
    """The job that a function runs for. All methods may be called from any thread.

    ``attempt`` counts from 1. ``job_id`` and ``folder`` are the same for all attempts of a job.
    """

    def __init__(
        self,
        *,
        job_id: str,
        attempt: int,
        folder: Path,
        report: Callable[[CommandProgress], None],
        cancel: CancelFlag,
    ) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self._folder = folder
        self._report = report
        self._cancel = cancel

    @property
    def folder(self) -> Path:
        """The folder of the job's files, created on first use. A ``Path`` in a result must be in it."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder

    @property
    def canceled(self) -> bool:
        """The job was canceled, its time limit has passed, or the worker is shutting down."""
        return self._cancel.is_set()

    def check(self) -> None:
        """Raise Canceled if the function must stop. Call it between steps."""
        if self._cancel.is_set():
            raise Canceled("the function was stopped")

    def wait(self, seconds: float) -> None:
        """Sleep, but raise Canceled as soon as the function must stop."""
        self._cancel.wait(seconds)
        self.check()

    def progress(self, done: float | None = None, total: float | None = None, message: str | None = None) -> None:
        """Report progress. Recorded as an event ``command.progress``, at most 4 times a second: of reports in
        between, the newest.

        Raises:
            ValidationError: a number is negative or not finite, or the message has more than 1,000 characters.
        """
        self._report(CommandProgress(done=done, total=total, message=message))
