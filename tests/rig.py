"""Real services and real worker processes for the tests of dispatch, of the worker, and of chaos.

A ``Rig`` is one store and one broker that nobody else uses: its own database, queues under its own prefix.
"""

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, make_url, text

from nsai_work import Job, JobHandle, Settings
from nsai_work.client.connections import close_connections, job_store
from nsai_work.store import Store

WAIT_S = 60.0


@dataclass
class WorkerProcess:
    """A worker in a process of its own; its log goes to a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """End it at once, as a machine that loses power."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def terminate(self) -> int:
        """Ask it to leave, and wait; its exit status."""
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def text(self) -> str:
        """What it has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Rig:
    """A store, a broker, and the environment that leads worker processes to them."""

    folder: Path
    database_url: str
    broker_url: str
    variables: dict[str, str] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")
    workers: list[WorkerProcess] = field(default_factory=list)

    def settings(self, **changes: Any) -> Settings:
        """Short times, so that a dead worker is noticed within a test."""
        values: dict[str, Any] = {
            "home": self.folder / "home",
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "queue_prefix": self.prefix,
            "lease_ttl_s": 5.0,
            "poll_interval_s": 0.5,
            "sweep_interval_s": 0.2,
            "shutdown_grace_s": 10.0,
        }
        return Settings(**(values | changes))

    @property
    def store(self) -> Store:
        """The store, seen from the test's process."""
        return job_store(self.settings())

    def environment(self, **changes: Any) -> dict[str, str]:
        """What a worker process sees."""
        settings = self.settings(**changes)
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("NSAI_WORK_", "TINKER_"))}
        ours = {f"NSAI_WORK_{name.upper()}": str(getattr(settings, name)) for name in type(settings).model_fields}
        # children must not inherit "warnings are errors" from the test run
        kept.pop("PYTHONWARNINGS", None)
        return {**kept, **ours, **self.variables}

    def start_worker(self, *arguments: str, ready: bool = True, **changes: Any) -> WorkerProcess:
        """Start a worker; returns when it claims jobs, unless ``ready`` is false."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "nsai_work.cli", "worker", *arguments],
                env=self.environment(**changes),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
        worker = WorkerProcess(process, log)
        self.workers.append(worker)
        if ready:
            until(
                lambda: "worker.started" in worker.text() or process.poll() is not None,
                "the worker started",
                worker.text,
            )
            assert process.poll() is None, worker.text()
        return worker

    def handle(self, job_id: str) -> JobHandle:
        """A job of this rig."""
        return JobHandle(job_id, self.settings())

    def close(self) -> None:
        """End what was started, and remove what was made."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(WAIT_S)
        close_connections()
        _remove_queues(self)


class Proxy:
    """A way to a service that can be cut and opened again. Passes bytes, and nothing else."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._open = threading.Event()
        self._open.set()
        self._ends: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Let connections through from now on."""
        self._open.set()

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        with self._lock:
            self._open.clear()
            ends, self._ends = self._ends, []
        for end in ends:
            _shut(end)

    def close(self) -> None:
        """The end."""
        self.cut()
        _shut(self._listener)
        self._thread.join(WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = self._connect()
            if far is None:
                _shut(near)
                continue
            with self._lock:
                self._ends += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=_pump, args=(source, sink), daemon=True).start()

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(self._target) if self._open.is_set() else None
        except OSError:
            return None


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    _shut(source)
    _shut(sink)


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
    end.close()


def until(
    look: Callable[[], Any], what: str, context: Callable[[], object] = lambda: "", timeout_s: float = WAIT_S
) -> Any:
    """What ``look`` gives as soon as it gives something true."""
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}\n{context()}"
        time.sleep(0.01)
    return found


def until_running(handle: JobHandle) -> None:
    """Wait until a worker has claimed the job. Also returns if the job has ended since then."""
    until(lambda: any(event.name == "job.running" for event in handle.events()), "the job runs")


def command(name: str = "noop", **fields: Any) -> Job:
    """A small job for the scripted backend: ``noop``, ``echo``, ``sleep`` or ``fail``."""
    arguments = fields.pop("arguments", {})
    return Job.parse(
        {"kind": "tool_call", "backend": "fake", "payload": {"command": name, "arguments": arguments}, **fields}
    )


@contextlib.contextmanager
def own_database(server: str) -> Iterator[str]:
    """A database of its own on a PostgreSQL server."""
    name = f"nsai_test_{secrets.token_hex(6)}"
    engine = create_engine(server, isolation_level="AUTOCOMMIT")
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name}"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def without_notices(database_url: str) -> str:
    """The address of the same database for those who are not to hear its notices."""
    return make_url(database_url).update_query_dict({"notices": "off"}).render_as_string(hide_password=False)


def _remove_queues(rig: Rig) -> None:
    from nsai_work.dispatch.broker import broker_connection
    from nsai_work.dispatch.queues import wake_queues

    with contextlib.suppress(OSError), broker_connection(rig.settings()) as connection:
        channel = connection.default_channel
        for queue in wake_queues(rig.prefix, rig.broker_url):
            queue(channel).delete()
