"""Reports of why work waits, such as a service that is at its limit, for whoever shows them to a user.

A backend that waits reports it:

    with waiting() as wait:
        while (response := await send()).status == 429:
            wait.because("the service is at its limit", WaitCause.LIMIT)
            await sleep(1)

The worker observes the waits of each job (``observed``). Observers are inherited by the tasks that an observed task
starts. Without an observer, reports go nowhere.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from enum import StrEnum
from typing import Final, Protocol

from crucible.errors import BackendUnavailable, CapacityError, RequestTimeout
from crucible.http.redaction import redacted


class WaitCause(StrEnum):
    """The cause of a wait, for metrics: a service that does not answer or fails (``away``), one at its limit
    (``limit``), a result that takes long (``result``), or anything else."""

    AWAY = "away"
    LIMIT = "limit"
    RESULT = "result"
    OTHER = "other"

    @classmethod
    def of(cls, error: BaseException) -> "WaitCause":
        """The cause of a wait after an error."""
        match error:
            case CapacityError():
                return cls.LIMIT
            case BackendUnavailable() | RequestTimeout():
                return cls.AWAY
            case _:
                return cls.OTHER


class WaitObserver(Protocol):
    """Receives the reports of the work that it observes."""

    def report(self, wait: "Wait") -> None:
        """Receive a wait that began, changed its reason, or ended."""
        ...


class Wait:
    """A wait, from its first reason to its end."""

    __slots__ = ("_observer", "cause", "reason")

    def __init__(self, observer: WaitObserver | None) -> None:
        self._observer = observer
        self.reason: str | None = None
        self.cause = WaitCause.OTHER

    @property
    def expected(self) -> bool:
        """True for a wait that is usual, as that for a result."""
        return self.cause is WaitCause.RESULT

    def because(self, reason: str, cause: WaitCause = WaitCause.OTHER) -> None:
        """Report the reason. A text without changing numbers is reported once."""
        reason = redacted(reason)
        if self._observer is not None and (reason, cause) != (self.reason, self.cause):
            self.reason, self.cause = reason, cause
            self._observer.report(self)

    def over(self) -> None:
        """Report that the work goes on."""
        if self._observer is not None and self.reason is not None:
            self.reason = None
            self._observer.report(self)


_observer: Final[ContextVar[WaitObserver | None]] = ContextVar("crucible_waits", default=None)


@contextmanager
def waiting() -> Iterator[Wait]:
    """Provide a wait for a piece of work that may have to wait; it is over at the end of the block."""
    wait = Wait(_observer.get())
    try:
        yield wait
    finally:
        wait.over()


@contextmanager
def observed(observer: WaitObserver) -> Iterator[None]:
    """Send the reports of the work within the block to ``observer``."""
    token = _observer.set(observer)
    try:
        yield
    finally:
        _observer.reset(token)


class LastReason:
    """The newest reason of the waits within a block, which stays when they are over: for an error that ends them.
    Reports go on to the observer outside."""

    def __init__(self, outside: WaitObserver | None) -> None:
        self._outside = outside
        self.text: str | None = None

    def report(self, wait: Wait) -> None:
        """Receive a wait."""
        self.text = wait.reason or self.text
        if self._outside is not None:
            self._outside.report(wait)


@contextmanager
def remembered() -> Iterator[LastReason]:
    """Remember why the work within the block waited."""
    last = LastReason(_observer.get())
    with observed(last):
        yield last
