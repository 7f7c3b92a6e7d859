"""The queue of pending operations: which of them run together."""

import asyncio
from types import SimpleNamespace
from typing import Any, cast

from nsai_work.clock import SystemClock
from nsai_work.store.engine.commit_queue import CommitQueue
from nsai_work.store.engine.group_commit import PendingOperation


def _operation(*, claims: bool = False) -> PendingOperation:
    standalone: Any = (lambda connection: []) if claims else None
    loop, future = cast("Any", None), cast("asyncio.Future[Any]", None)
    return PendingOperation(lambda tx: None, None, False, 0.0, 1.0, loop, future, standalone)


def _queue() -> CommitQueue:
    database = SimpleNamespace(clock=SystemClock())
    return CommitQueue(cast("Any", SimpleNamespace(database=database, notified=False, wake=lambda: None)))


def test_a_notified_claim_does_not_wait_for_a_pause_of_the_other_operations() -> None:
    """On a worker whose jobs write all the time there is none."""
    queue, write, claim = _queue(), _operation(), _operation(claims=True)
    queue.put(write)
    queue.stand_by(claim)
    queue.connection.notified = True

    assert queue.next_group() == [write, claim]
    assert not queue.connection.notified
    assert not queue.stand_down(claim)


def test_a_claim_stands_by_until_it_is_notified() -> None:
    """Other operations do not make it due."""
    queue, write, claim = _queue(), _operation(), _operation(claims=True)
    queue.stand_by(claim)
    queue.put(write)

    assert queue.next_group() == [write]
    assert queue.stand_down(claim)
