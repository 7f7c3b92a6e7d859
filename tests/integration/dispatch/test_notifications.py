"""Where the database gives notice of ready jobs, workers need no broker; the broker is told all the same."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsai_work import submit, submit_many
from nsai_work.client.connections import close_connections
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.debounce import DebouncedPublisher
from nsai_work.dispatch.publisher import MAX_WAKE_UPS, Publisher, enough_wake_ups
from nsai_work.dispatch.queues import wake_queue
from nsai_work.dispatch.wakeup import decode
from nsai_work.job import Priority
from nsai_work.store import WakeUp
from tests.rig import Rig, command, own_database, until

BROKERS = [pytest.param("amqp", marks=pytest.mark.amqp), pytest.param("redis", marks=pytest.mark.redis)]


@pytest.fixture(params=BROKERS)
def rig(request: pytest.FixtureRequest, postgres_url: str, tmp_path: Path) -> Iterator[Rig]:
    """PostgreSQL with its notices, and a broker."""
    with own_database(postgres_url) as database_url:
        made = Rig(tmp_path, database_url, request.getfixturevalue(f"{request.param}_url"))
        yield made
        made.close()


@pytest.fixture
def spool(tmp_path: Path) -> Iterator[Rig]:
    """A broker that needs no server."""
    made = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", f"spool://localhost{tmp_path}/spool")
    yield made
    made.close()


def wake_ups_on_queue(rig: Rig, priority: Priority = Priority.BATCH) -> list[str]:
    """Take all wake-ups from a queue; the jobs they name."""
    with broker_connection(rig.settings()) as connection:
        queue = wake_queue(rig.prefix, priority, rig.broker_url)(connection.default_channel)
        queue.declare()
        found = []
        while (message := queue.get(no_ack=True)) is not None:
            wake = decode(message.body)
            assert isinstance(wake, WakeUp)
            found.append(wake.job_id)
        return found


@pytest.mark.postgres
def test_a_job_is_worked_without_the_broker(rig: Rig) -> None:
    """The worker hears of it from the database, long before it would look by itself."""
    rig.start_worker(poll_interval_s=300, sweep_interval_s=300)
    # wake-ups to queues that nobody reads
    deaf = rig.settings(queue_prefix=f"{rig.prefix}-deaf")

    for number in range(3):
        assert submit(command("echo", arguments={"value": number}), deaf).result(timeout=60) == {"value": number}
    many = submit_many([command(tenant_id=f"t{number % 3}") for number in range(40)], deaf)
    assert [handle.result(timeout=60) for handle in many] == [{}] * 40


@pytest.mark.postgres
def test_the_broker_is_told_too(rig: Rig) -> None:
    """By a process that goes on, and by one that ends right after it has submitted."""
    handle = submit(command(), rig.settings())
    until(lambda: wake_ups_on_queue(rig) == [handle.id], "the broker was told")

    job = "Job(kind='tool_call', backend='fake', payload={'command': 'noop'})"
    code = f"from nsai_work import Job, submit; print(submit({job}).id)"
    done = subprocess.run(
        [sys.executable, "-c", code], env=rig.environment(), check=True, capture_output=True, text=True, timeout=60
    )

    assert wake_ups_on_queue(rig) == [done.stdout.strip()]


@pytest.mark.postgres
def test_a_forked_process_tells_the_broker_itself(rig: Rig) -> None:
    """What delivers wake-ups does not follow into the child, which gets its own."""
    mine = submit(command(), rig.settings())
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

    assert sorted(wake_ups_on_queue(rig)) == sorted([mine.id, "of the child"])


def wake_up(number: int, priority: Priority = Priority.BATCH) -> WakeUp:
    """A wake-up of a job."""
    return WakeUp(job_id=f"job {number}", fence=0, priority=priority)


def test_a_debounced_publisher_delivers_all_it_was_given(spool: Rig) -> None:
    """Closing it waits for what is left; after that it can be used again."""
    debounced = DebouncedPublisher(Publisher(spool.settings()))
    debounced.send([])
    for number in range(3):
        debounced.send([wake_up(number)])
    debounced.close()
    assert sorted(wake_ups_on_queue(spool)) == ["job 0", "job 1", "job 2"]

    debounced.send([wake_up(3)])
    until(lambda: wake_ups_on_queue(spool) == ["job 3"], "it was delivered by itself")
    debounced.close()
    debounced.close()


def test_enough_wake_ups_are_sent_for_each_priority() -> None:
    """A worker that serves one priority only is not left out because others came first."""
    batch = [wake_up(number) for number in range(100)]
    urgent = [wake_up(number, Priority.REALTIME) for number in range(3)]

    assert enough_wake_ups([*batch, *urgent]) == [*batch[:MAX_WAKE_UPS], *urgent]
    assert enough_wake_ups([]) == []
