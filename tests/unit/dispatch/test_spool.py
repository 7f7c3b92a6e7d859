"""The embedded transport, through kombu's public interface."""

import os
import shutil
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Consumer, Producer, Queue

from nsai_work.dispatch.doorbell import FOLDER, Doorbell, ring_all
from nsai_work.dispatch.spool import register_spool

QUEUE = "q.batch"


@pytest.fixture
def connection(tmp_path: Path) -> Any:
    """A connection to a fresh spool directory."""
    register_spool()
    with Connection(f"spool://localhost{tmp_path}/spool", transport_options={"polling_interval": 0.001}) as opened:
        Queue(QUEUE, exchange=None, routing_key=QUEUE)(opened.default_channel).declare()
        yield opened


def _send(connection: Any, *bodies: Any) -> None:
    producer = Producer(connection.default_channel, auto_declare=False)
    for body in bodies:
        producer.publish(body, exchange="", routing_key=QUEUE)


def _receive(connection: Any, idle_s: float = 0.05) -> list[Any]:
    """Receive until no message has arrived for a while."""
    received: list[Any] = []

    def on_message(body: Any, message: Any) -> None:
        message.ack()
        received.append(body)

    queue = Queue(QUEUE, exchange=None, routing_key=QUEUE)
    with Consumer(connection.default_channel, [queue], callbacks=[on_message], accept=["json"], auto_declare=False):
        while True:
            try:
                connection.drain_events(timeout=idle_s)
            except TimeoutError:
                return received


def test_messages_are_delivered_in_order_and_once(connection: Any) -> None:
    """First in, first out; the queue is empty afterwards."""
    _send(connection, *range(50))

    assert _receive(connection) == list(range(50))
    assert _receive(connection) == []


def test_a_malformed_file_is_dropped(connection: Any, tmp_path: Path) -> None:
    """Foreign, malformed and partial files neither stop a reader nor delay other messages."""
    folder = tmp_path / "spool" / QUEUE
    (folder / "0.msg").write_bytes(b"rubbish")
    (folder / "1.msg").write_bytes(b'{"body": 1}')
    (folder / "2.msg").write_bytes(b"\xff\xfe")
    (folder / "3.msg").write_bytes(b'{"body": "!", "properties": {"body_encoding": "base64"}, "headers": {}}')
    (folder / ".4.msg.part").write_bytes(b"half")
    (folder / "README").write_text("hello")
    _send(connection, 7)

    assert _receive(connection) == [7]
    assert sorted(path.name for path in folder.iterdir()) == [".4.msg.part", "README"]


def test_the_queue_directory_may_be_deleted(connection: Any, tmp_path: Path) -> None:
    """A deleted directory costs its messages, and nothing else."""
    folder = tmp_path / "spool" / QUEUE
    folder.rmdir()
    _send(connection, 8)

    assert _receive(connection) == [8]


def _drain_in_child(url: str, results: Any) -> None:
    register_spool()
    with Connection(url, transport_options={"polling_interval": 0.001}) as connection:
        results.put(_receive(connection, idle_s=0.3))


def test_two_processes_share_a_queue(connection: Any, tmp_path: Path) -> None:
    """Each message is received by exactly one of two processes, also while others are sent."""
    context = get_context("spawn")
    results = context.Queue()
    url = f"spool://localhost{tmp_path}/spool"
    children = [context.Process(target=_drain_in_child, args=(url, results)) for _ in range(2)]
    _send(connection, *range(100))
    for child in children:
        child.start()
    _send(connection, *range(100, 300))
    received = [results.get(timeout=120) for _ in children]
    for child in children:
        child.join(timeout=120)
    remaining = _receive(connection)

    assert sorted(received[0] + received[1] + remaining) == list(range(300))


def _bells(spool: Path) -> list[str]:
    return [path.name for path in (spool / FOLDER).iterdir()]


def test_each_reader_is_told_of_a_message(connection: Any, tmp_path: Path) -> None:
    """A message rings the doorbell of every reader, once for all that came since the last look."""
    bells = [Doorbell(tmp_path / "spool") for _ in range(3)]
    _send(connection, 1, 2)

    assert [bell.wait(30) for bell in bells] == [True] * 3
    assert [bell.wait(0) for bell in bells] == [False] * 3
    for bell in bells:
        bell.close()
    assert _bells(tmp_path / "spool") == []


def test_the_pipe_of_a_process_that_has_ended_is_removed(tmp_path: Path) -> None:
    """A pipe that nobody reads is removed by the next writer; one that is full is left alone."""
    bell = Doorbell(tmp_path)
    [name] = _bells(tmp_path)
    os.mkfifo(tmp_path / FOLDER / "of-a-killed-process")
    full = os.open(tmp_path / FOLDER / name, os.O_WRONLY | os.O_NONBLOCK)
    os.write(full, bytes(65_536))
    os.close(full)
    ring_all(tmp_path)

    assert _bells(tmp_path) == [name]
    assert bell.wait(30)
    bell.close()


def test_a_doorbell_is_made_again_where_the_spool_was_deleted(connection: Any, tmp_path: Path) -> None:
    """Writers find a reader again after its next look."""
    assert _receive(connection) == []
    [before] = _bells(tmp_path / "spool")
    shutil.rmtree(tmp_path / "spool")
    assert _receive(connection) == []
    [after] = _bells(tmp_path / "spool")

    assert after != before


def test_messages_arrive_where_there_are_no_named_pipes(connection: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On such a file system the reader polls."""

    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "mkfifo", refuse)
    _send(connection, *range(10))

    assert _receive(connection) == list(range(10))
