"""A job that is tried again is announced as one that is new."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from nsai_work import Settings, submit
from nsai_work.client.connections import close_connections
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.queues import queue_name
from nsai_work.dispatch.wakeup import WakeUp, decode
from nsai_work.job import Priority
from nsai_work.lifecycle import JobStatus
from tests.rig import command


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """An embedded store and transport."""
    yield Settings(home=tmp_path)
    close_connections()


def announced(settings: Settings) -> list[object]:
    """The wake-ups that lie in the queue of batch jobs, taken out of it."""
    with broker_connection(settings) as connection:
        queue = connection.SimpleQueue(queue_name(settings.queue_prefix, Priority.BATCH))
        found = []
        while queue.qsize():
            message = queue.get(block=False)
            message.ack()
            found.append(decode(message.body))
        queue.close()
        return found


def test_a_retry_wakes_a_worker(settings: Settings) -> None:
    """It is not left to the moment when a worker looks by itself."""
    handle = submit(command(), settings)
    announced(settings)
    handle.cancel()

    assert handle.retry() is JobStatus.QUEUED

    assert announced(settings) == [WakeUp(job_id=handle.id, fence=handle.job().fence, priority=Priority.BATCH)]
