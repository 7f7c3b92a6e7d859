"""A retry publishes a wake-up, as a submit does."""

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


def drain(settings: Settings) -> list[object]:
    """Drain the batch queue, and return its wake-ups."""
    with broker_connection(settings) as connection:
        queue = connection.SimpleQueue(queue_name(settings.queue_prefix, Priority.BATCH))
        wake_ups = []
        while queue.qsize():
            message = queue.get(block=False)
            message.ack()
            wake_ups.append(decode(message.body))
        queue.close()
        return wake_ups


def test_a_retry_wakes_a_worker(settings: Settings) -> None:
    """Instead of waiting until a worker polls."""
    handle = submit(command(), settings)
    drain(settings)
    handle.cancel()

    assert handle.retry() is JobStatus.QUEUED

    assert drain(settings) == [WakeUp(job_id=handle.id, fence=handle.job().fence, priority=Priority.BATCH)]
