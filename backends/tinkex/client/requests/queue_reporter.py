"""Rate-limited reports of why requests wait at the service."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from backends.tinkex.types.future_answer import QueueState

_INTERVAL_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class QueueReport:
    """A request that has waited for ``waited_s`` seconds, with the service's ``reason`` if it gave one."""

    subject: str
    route: str
    request_id: str
    state: QueueState
    reason: str | None
    waited_s: float


QueueObserver = Callable[[QueueReport], None]


class QueueReporter:
    """Forwards queue reports to an observer: the first non-active one at once, then at most one a minute."""

    def __init__(self, observer: QueueObserver | None, clock: Callable[[], float], subject: str) -> None:
        self._observer = observer
        self._clock = clock
        self._subject = subject
        self._last: float | None = None
        self._paused = False

    def waiting(self, route: str, request_id: str, state: QueueState, reason: str | None, waited_s: float) -> None:
        """Report a request whose result is not ready."""
        if state in (QueueState.ACTIVE, QueueState.UNKNOWN) and not self._paused:
            return
        now = self._clock()
        if self._observer is None or (self._last is not None and now - self._last < _INTERVAL_S):
            return
        self._last, self._paused = now, state not in (QueueState.ACTIVE, QueueState.UNKNOWN)
        self._observer(QueueReport(self._subject, route, request_id, state, reason, waited_s))
