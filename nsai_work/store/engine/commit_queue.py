"""The queue of pending operations, drained by the commit thread."""

import queue
import threading
from dataclasses import dataclass, field
from typing import Final

from nsai_work.store.engine.group_commit import PendingOperation
from nsai_work.store.engine.listener import ListeningConnection

MAX_GROUP: Final = 500


@dataclass
class CommitQueue:
    """Accepts operations from any thread; the commit thread calls ``next_group``.

    One claim may *stand by*: it becomes due when a notification arrives, and not before.
    """

    connection: ListeningConnection
    _pending: "queue.SimpleQueue[PendingOperation | None]" = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _standing: PendingOperation | None = None
    _idle: bool = False

    def put(self, operation: PendingOperation | None) -> None:
        """Add an operation. None ends the commit thread."""
        self._pending.put(operation)
        if self._idle:
            self.connection.wake()

    def stand_by(self, claim: PendingOperation) -> None:
        """Run the claim on the next notification, or at once if one has arrived since the last claim."""
        with self._lock:
            self._standing = claim
        if self.connection.notified and self._idle:
            self.connection.wake()

    def stand_down(self, claim: PendingOperation) -> bool:
        """Cancel a standing claim. Returns False if it is being run or has been."""
        with self._lock:
            if self._standing is not claim:
                return False
            self._standing = None
            return True

    def next_group(self) -> list[PendingOperation | None]:
        """The operations to run now. Blocks until there are any."""
        while True:
            group = self._drain()
            if self.connection.notified:
                group += self._due_claim()
            if group:
                if any(operation is not None and operation.is_claim for operation in group):
                    # the claim sees every job that a notification so far was sent for
                    self.connection.notified = False
                return group
            self._idle = True
            if self._pending.empty() and not (self.connection.notified and self._standing is not None):
                self.connection.wait()
            self._idle = False

    def abandon(self) -> list[PendingOperation | None]:
        """Return all operations that will never run, a standing claim included."""
        with self._lock:
            claim, self._standing = self._standing, None
        return [*self._drain(), claim]

    def _drain(self) -> list[PendingOperation | None]:
        group: list[PendingOperation | None] = []
        while len(group) < MAX_GROUP and not self._pending.empty():
            group.append(self._pending.get())
        return group

    def _due_claim(self) -> list[PendingOperation | None]:
        with self._lock:
            claim, self._standing = self._standing, None
        if claim is None:
            return []
        claim.since = self.connection.database.clock.monotonic()
        return [claim]
