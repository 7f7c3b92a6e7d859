"""PostgreSQL's notifications make the broker optional; wake-ups are published nevertheless."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest

from nsai_work import submit, submit_many
from nsai_work.client.connections import close_connections
from nsai_work.dispatch import debounce
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.debounce import DebouncedPublisher
from nsai_work.dispatch.publisher import MAX_WAKE_UPS, Publisher, enough_wake_ups
from nsai_work.dispatch.queues import wake_queue
from nsai_work.dispatch.wakeup import decode
from nsai_work.job import Priority
from nsai_work.store import WakeUp
from tests.rig import Rig, command, new_database, until

BROKERS = [pytest.param("amqp", marks=pytest.mark.amqp), pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture(params=BROKERS)
def rig(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Iterator[Rig]:
    """PostgreSQL with notifications, and a broker."""
    with new_database(postgres_url) as database_url:
        rig = Rig(tmp_path, database_url, request.getfixturevalue(f"{request.param}_url"))
        yield rig
        rig.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Rig]:
    """An embedded store and broker."""
    rig = Rig.embedded(tmp_path)
    yield rig
    rig.close()


def wake_ups_on_queue(rig: Rig, priority: Priority = Priority.BATCH) -> list[str]:
    """Drain a queue, and return the job ids of its wake-ups."""
    with broker_connection(rig.settings()) as connection:
        queue = wake_queue(rig.prefix, priority, rig.broker_url)(connection.default_channel)
        queue.declare()
        job_ids = []
        while (message := queue.get(no_ack=True)) is not None:
            wake = decode(message.body)
            assert isinstance(wake, WakeUp)
            job_ids.append(wake.job_id)
        return job_ids


@pytest.mark.postgres
def test_a_job_runs_without_the_broker(rig: Rig) -> None:
    """The database notifies the worker, long before it would poll."""
    rig.start_worker(poll_interval_s=300, sweep_interval_s=300)
    # wake-ups go to queues without a consumer
    unread = rig.settings(queue_prefix=f"{rig.prefix}-unread")

    for number in range(3):
        assert submit(command("echo", arguments={"value": number}), unread).result(timeout=120) == {"value": number}
    many = submit_many([command(tenant_id=f"t{number % 3}") for number in range(40)], unread)
    assert [handle.result(timeout=120) for handle in many] == [{}] * 40


@pytest.mark.postgres
def test_wake_ups_are_published_too(rig: Rig) -> None:
    """By a process that continues, and by one that ends right after the submit."""
    handle = submit(command(), rig.settings())
    until(lambda: wake_ups_on_queue(rig) == [handle.id], "the wake-up was published")

    job = "Job(kind='tool_call', backend='fake', payload={'command': 'noop'})"
    code = f"from nsai_work import Job, submit; print(submit({job}).id)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=rig.environment(), check=True, capture_output=True, text=True, timeout=120
    )

    assert wake_ups_on_queue(rig) == [done.stdout.strip()]


@pytest.mark.postgres
def test_a_forked_process_publishes_through_its_own_connection(rig: Rig) -> None:
    """The publisher's thread does not exist in the child, which starts its own."""
    handle = submit(command(), rig.settings())
    child = os.fork()
    if child == 0:
        try:
            submit(command(id="of the child"), rig.settings())
            close_connections()
            os._exit(0)
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    close_connections()

    assert sorted(wake_ups_on_queue(rig)) == sorted([handle.id, "of the child"])


def wake_up(number: int, priority: Priority = Priority.BATCH) -> WakeUp:
    """Return the wake-up of a job."""
    return WakeUp(job_id=f"job {number}", fence=0, priority=priority)


def test_a_debounced_publisher_publishes_every_wake_up(spool: Rig) -> None:
    """Closing it publishes the pending ones; it can be used again afterwards."""
    debounced = DebouncedPublisher(Publisher(spool.settings()))
    debounced.send([])
    for number in range(3):
        debounced.send([wake_up(number)])
    debounced.close()
    assert sorted(wake_ups_on_queue(spool)) == ["job 0", "job 1", "job 2"]

    debounced.send([wake_up(3)])
    until(lambda: wake_ups_on_queue(spool) == ["job 3"], "it was published without a close")
    debounced.close()
    debounced.close()


def test_a_wake_up_that_arrives_as_others_are_published_is_published_by_the_close() -> None:
    """Although the thread is told to end meanwhile."""
    publishing, closed = threading.Event(), threading.Event()
    published: list[WakeUp] = []

    class SlowPublisher:
        def publish(self, wake_ups: Sequence[WakeUp]) -> None:
            publishing.set()
            assert closed.wait(60)
            published.extend(wake_ups)

        def close(self) -> None:
            return

    debounced = DebouncedPublisher(cast("Publisher", SlowPublisher()))
    debounced.send([wake_up(1)])
    assert publishing.wait(60)
    debounced.send([wake_up(2)])
    closing = threading.Thread(target=debounced.close)
    closing.start()
    until(debounced._closing.is_set, "the close has begun")
    closed.set()
    closing.join(60)

    assert published == [wake_up(1), wake_up(2)]


def test_a_close_does_not_wait_while_a_fleet_counts_as_awake(monkeypatch: pytest.MonkeyPatch) -> None:
    """And publishes what has arrived meanwhile."""
    monkeypatch.setattr(debounce, "AWAKE_S", 3_600.0)
    published: list[WakeUp] = []

    class RecordingPublisher:
        def publish(self, wake_ups: Sequence[WakeUp]) -> None:
            published.extend(wake_ups)

        def close(self) -> None:
            return

    fleet = [wake_up(number) for number in range(MAX_WAKE_UPS)]
    debounced = DebouncedPublisher(cast("Publisher", RecordingPublisher()))
    debounced.send(fleet)
    until(lambda: published == fleet, "the fleet is woken up")
    debounced.send([wake_up(99)])
    debounced.close()

    assert published == [*fleet, wake_up(99)]


def test_wake_ups_are_limited_per_priority() -> None:
    """A worker of a single priority is woken up too, whatever other wake-ups came first."""
    batch = [wake_up(number) for number in range(100)]
    urgent = [wake_up(number, Priority.REALTIME) for number in range(3)]

    assert enough_wake_ups([*batch, *urgent]) == [*batch[:MAX_WAKE_UPS], *urgent]
    assert enough_wake_ups([]) == []
