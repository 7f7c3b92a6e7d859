"""A check that is made by at most one thread at a time, and whose result is shared for a while."""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

from crucible.runtime.monotonic import monotonic

T = TypeVar("T")


class SharedCheck(Generic[T]):
    """The result of ``check``, at most ``max_age_s`` seconds old. Thread-safe.

    A check that succeeds runs for at most ``max_share`` of the time: one that takes long is made less often.

    The check runs in a daemon thread: one that never returns, as on a connection that died silently, occupies one
    thread, and no caller.
    """

    def __init__(
        self, check: Callable[[], T], *, max_age_s: float, patience_s: float, max_share: float = 1.0
    ) -> None:
        self._check = check
        self._max_age_s = max_age_s
        self._patience_s = patience_s
        self._max_share = max_share
        self._lock = threading.Lock()
        self._running: Future[T] | None = None
        self._good_until = 0.0

    def result(self) -> T:
        """Return the result, or raise the error of the check.

        Raises:
            TimeoutError: the check has not ended within ``patience_s``.
        """
        with self._lock:
            current = self._running
            if current is None or (current.done() and monotonic() > self._good_until):
                self._running = current = Future()
                threading.Thread(target=self._run, args=(current,), name="nsai-work check", daemon=True).start()
        return current.result(self._patience_s)

    def _run(self, future: "Future[T]") -> None:
        began = monotonic()
        try:
            result = self._check()
        except BaseException as error:
            self._good_until = monotonic() + self._max_age_s
            future.set_exception(error)
        else:
            ended = monotonic()
            self._good_until = ended + max(self._max_age_s, (ended - began) * (1 / self._max_share - 1))
            future.set_result(result)
