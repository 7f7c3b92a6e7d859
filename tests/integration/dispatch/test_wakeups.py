"""Wake-ups from a submitting process to workers, among any other messages on their queue."""

import json
from typing import Any

import pytest
from kombu import Producer

from nsai_work import submit, submit_many
from nsai_work.dispatch.app import make_app
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.queues import queue_name, wake_queue
from nsai_work.dispatch.wakeup import TASK_NAME
from nsai_work.job import Priority
from nsai_work.store import WakeUp
from tests.rig import Rig, command, until, until_running


def _send(rig: Rig, body: Any, headers: dict[str, Any] | None = None, **options: Any) -> None:
    """Put a message on the batch queue."""
    with broker_connection(rig.settings()) as connection:
        producer = Producer(connection.default_channel, auto_declare=False)
        queue = queue_name(rig.prefix, Priority.BATCH)
        producer.publish(body, exchange="", routing_key=queue, headers=headers or {}, **options)


def _wake_body(**fields: Any) -> bytes:
    return json.dumps([[], fields, {}]).encode()


RAW = {"content_type": "application/json", "content_encoding": "utf-8"}
OURS = {"task": TASK_NAME, "id": "x"}


def test_a_job_runs_in_another_process(rig: Rig) -> None:
    """The wake-up arrives long before the worker would poll."""
    rig.start_worker(poll_interval_s=300, sweep_interval_s=300)
    settings = rig.settings()
    submit(command(), settings).result(timeout=120)

    handle = submit(command("echo", arguments={"value": [1, None, "ü"]}), settings)

    assert handle.result(timeout=120) == {"value": [1, None, "ü"]}
    assert [event.name for event in handle.events(follow=True)] == ["job.submitted", "job.running", "job.succeeded"]


def test_many_jobs_each_end_once_on_two_workers(rig: Rig) -> None:
    """Each is claimed once, by either worker."""
    rig.start_worker()
    rig.start_worker()

    handles = submit_many([command("echo", arguments={"value": n}) for n in range(150)], rig.settings())
    results = [handle.result(timeout=120) for handle in handles]

    assert results == [{"value": n} for n in range(150)]
    names = [event.name for event in rig.store.events_all(limit=1000) if event.name != "job.waiting"]
    assert {name: names.count(name) for name in set(names)} == {
        "job.submitted": 150,
        "job.running": 150,
        "job.succeeded": 150,
    }


def test_celerys_send_task_wakes_a_worker(rig: Rig) -> None:
    """Any Celery program can send wake-ups: the message format is Celery's."""
    rig.start_worker(poll_interval_s=300, sweep_interval_s=300)
    settings = rig.settings()
    entry = rig.store.submit([command()])[0]
    app = make_app(settings, lambda: pytest.fail("this process runs no worker"))
    with app:
        queue = queue_name(rig.prefix, Priority.BATCH)
        app.send_task(
            TASK_NAME, kwargs={"job_id": entry.job_id, "fence": entry.fence, "priority": "batch"}, queue=queue
        )

    rig.handle(entry.job_id).result(timeout=120)


def test_malformed_messages_are_acknowledged_and_counted(rig: Rig) -> None:
    """Not JSON, a wrong shape, a foreign task, an unknown job, an old fence, a huge body: no message stops the
    worker, and none is redelivered."""
    worker = rig.start_worker()
    settings = rig.settings()
    done = submit(command(), settings)
    done.result(timeout=120)
    ended = rig.store.get(done.id)

    _send(rig, b"not json", OURS, **RAW)
    _send(rig, b"not json", **RAW)
    _send(rig, b"x" * 1_000_000, OURS, **RAW)
    _send(rig, {"a": 1})
    _send(rig, [1, 2, 3], {"task": "os.system", "id": "x"})
    _send(rig, b"\x80\x04N.", OURS, content_type="application/x-python-serialize", content_encoding="binary")
    _send(rig, _wake_body(job_id="x" * 1000, fence=0, priority="batch"), OURS, **RAW)
    _send(rig, _wake_body(job_id="no such job", fence=0, priority="batch"), OURS, **RAW)
    _send(rig, _wake_body(job_id=done.id, fence=0, priority="batch"), OURS, **RAW)
    _send(rig, _wake_body(job_id=done.id, fence=0, priority="batch"), OURS, **RAW)

    assert submit(command(), settings).result(timeout=120) == {}
    until(lambda: "wake.unknown_job" in worker.text(), "the unknown job was logged", worker.text)
    until(lambda: "reason=unknown_task" in worker.text(), "the foreign task was logged", worker.text)
    assert rig.store.get(done.id) == ended
    assert worker.process.poll() is None
    with broker_connection(settings) as connection:
        queue = wake_queue(rig.prefix, Priority.BATCH, rig.broker_url)(connection.default_channel)
        assert queue.get() is None


@pytest.mark.redis
def test_malformed_entries_of_a_redis_list_do_not_stop_a_worker(redis_url: str, rig: Rig) -> None:
    """An entry that kombu cannot read costs the connection, but not the worker and its jobs."""
    if not rig.broker_url.startswith("redis"):
        pytest.skip("about the Redis transport")
    import redis

    worker = rig.start_worker()
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue_name(rig.prefix, Priority.BATCH), "malformed", "{}", "[]", b"\xff\xfe")

    assert submit(command(), rig.settings()).result(timeout=120) == {}
    assert worker.process.poll() is None


def test_a_stale_or_duplicate_wake_up_runs_nothing_twice(rig: Rig) -> None:
    """A wake-up of a job that runs, or has ended, has no effect."""
    from nsai_work.client.connections import publisher

    rig.start_worker()
    settings = rig.settings()
    handle = submit(command("sleep", arguments={"ms": 1500}), settings)
    until_running(handle)

    for fence in (0, 0, 1, 1, 7):
        publisher(settings).publish([WakeUp(job_id=handle.id, fence=fence, priority=Priority.BATCH)])
    handle.result(timeout=120)
    for fence in (0, 1, 2):
        publisher(settings).publish([WakeUp(job_id=handle.id, fence=fence, priority=Priority.BATCH)])
    submit(command(), settings).result(timeout=120)

    assert len(rig.store.attempts(handle.id)) == 1
