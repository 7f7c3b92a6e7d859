"""Where operations wait for the thread that runs them."""

import queue
import threading
from dataclasses import dataclass, field
from typing import Final

from nsai_work.store.engine.group_commit import PendingOperation
from nsai_work.store.engine.listener import ListeningConnection

MAX_GROUP: Final = 500


@dataclass
class CommitQueue:
    """Operations come in from any thread; ``next_group`` is called by the one that runs them.

    One claim may *stand by*: it is due when notice is given that a job is ready, and not before.
    """

    line: ListeningConnection
    _queue: "queue.SimpleQueue[PendingOperation | None]" = field(default_factory=queue.SimpleQueue)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _standing: PendingOperation | None = None
    _idle: bool = False

    def put(self, one: PendingOperation | None) -> None:
        """Add an operation; None is the last."""
        self._queue.put(one)
        if self._idle:
            self.line.wake()

    def stand_by(self, claim: PendingOperation) -> None:
        """Let a claim wait for a notice; one that has come since the last claim will do."""
        with self._lock:
            self._standing = claim
        if self.line.told and self._idle:
            self.line.wake()

    def stand_down(self, claim: PendingOperation) -> bool:
        """Take a claim back; false if it is being made, or has been."""
        with self._lock:
            if self._standing is not claim:
                return False
            self._standing = None
            return True

    def next_group(self) -> list[PendingOperation | None]:
        """What is to be run now; waits until there is something."""
        while True:
            group = self._arrived()
            if not group and self.line.told:
                group = self._due()
            if group:
                if any(one is not None and one.single is not None for one in group):
                    # it will see all that notice has been given of
                    self.line.told = False
                return group
            self._idle = True
            if self._queue.empty() and not (self.line.told and self._standing is not None):
                self.line.wait()
            self._idle = False

    def _arrived(self) -> list[PendingOperation | None]:
        group: list[PendingOperation | None] = []
        while len(group) < MAX_GROUP and not self._queue.empty():
            group.append(self._queue.get())
        return group

    def _due(self) -> list[PendingOperation | None]:
        with self._lock:
            claim, self._standing = self._standing, None
        if claim is None:
            return []
        claim.since = self.line.database.clock.monotonic()
        return [claim]
