"""Where the consumer puts what it read, and the worker's runtime takes it from."""

from collections import Counter
from collections.abc import Callable

from nsai_work.dispatch.wakeup import BadWakeUp
from nsai_work.logs import get_logger
from nsai_work.store.records import WakeUp

log = get_logger(__name__)


class Inbox:
    """Counts every message; passes the good ones on. Used from the consumer's thread only.

    ``counts`` has ``wake`` for wake-ups and a key for each kind of rubbish.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self._receiver: Callable[[WakeUp], None] | None = None

    def connect(self, receiver: Callable[[WakeUp], None] | None) -> None:
        """Pass wake-ups to this from now on; None drops them, which costs latency only."""
        self._receiver = receiver

    def put(self, message: WakeUp | BadWakeUp) -> None:
        """Take what a message turned out to be."""
        if isinstance(message, BadWakeUp):
            self.counts[message] += 1
            log.warning("wake.rejected", reason=str(message), count=self.counts[message])
            return
        self.counts["wake"] += 1
        if self._receiver is not None:
            self._receiver(message)
