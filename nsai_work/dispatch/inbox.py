"""The link between the consumer and the worker's runtime: counts messages and passes wake-ups on."""

from collections import Counter
from collections.abc import Callable

from nsai_work.dispatch.wakeup import BadWakeUp
from nsai_work.store.records import WakeUp
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)


class Inbox:
    """Passes wake-ups to a receiver and counts all messages. Used in the consumer's thread only.

    ``counts`` has the key ``wake`` for wake-ups, and a key for each BadWakeUp.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._receiver: Callable[[WakeUp], None] | None = None

    def connect(self, receiver: Callable[[WakeUp], None] | None) -> None:
        """Set the receiver of wake-ups. Without one they are dropped, which costs latency only."""
        self._receiver = receiver

    def put(self, message: WakeUp | BadWakeUp) -> None:
        """Handle a decoded message."""
        if isinstance(message, BadWakeUp):
            self.counts[message] += 1
            log.warning("wake.rejected", reason=str(message), count=self.counts[message])
            return
        self.counts["wake"] += 1
        if self._receiver is not None:
            self._receiver(message)
