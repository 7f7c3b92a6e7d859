"""Test rigs with real services and real worker processes, for the tests of dispatch and worker and the chaos tests.

A ``Rig`` is a store and a broker for one test: a database of its own, and queues under a prefix of its own.
"""

import atexit
import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import NullPool, create_engine, make_url, text

from nsai_work import Job, JobHandle, Settings
from nsai_work.client.connections import close_connections, job_store
from nsai_work.store import Store, migrate_store
from tests.zygote import CliProcess

WAIT_S = 120.0
DEFAULT_PORTS = {"amqp": 5672, "redis": 6379, "postgresql": 5432}

PAIRS = [
    "embedded",
    pytest.param("amqp", id="postgres-rabbitmq", marks=[pytest.mark.postgres, pytest.mark.amqp]),
    pytest.param("redis", id="postgres-redis", marks=[pytest.mark.postgres, pytest.mark.redis]),
]
"""The supported pairs of store and broker, as parameters of a fixture that calls ``open_rig``."""
SLOW_PAIRS = [pytest.param(*pair.values, id=pair.id, marks=[*pair.marks, pytest.mark.slow]) for pair in PAIRS[1:]]
"""Those with servers, for tests that ``make test`` has for the embedded pair."""


@dataclass
class WorkerProcess:
    """A worker process that logs to a file."""

    process: "subprocess.Popen[bytes]"
    log: Path

    def kill(self) -> None:
        """Kill the process, as a power failure would."""
        self.process.kill()
        self.process.wait(WAIT_S)

    def terminate(self) -> int:
        """Send SIGTERM, wait for the end, and return the exit status."""
        self.process.terminate()
        return self.process.wait(WAIT_S)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def text(self) -> str:
        """Return the log so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""


@dataclass
class Rig:
    """A store, a broker, and the environment with which worker processes use them."""

    folder: Path
    database_url: str
    broker_url: str
    variables: dict[str, str] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"test-{secrets.token_hex(4)}")
    workers: list[WorkerProcess] = field(default_factory=list)
    prefixes: set[str] = field(default_factory=set)
    """The prefixes of all queues that may exist."""

    @classmethod
    def embedded(cls, folder: Path) -> "Rig":
        """Return a rig without servers: SQLite and a spool directory."""
        shutil.copy(sqlite_template(), folder / "jobs.db")
        return cls(folder, f"sqlite:///{folder}/jobs.db", f"spool://localhost{folder}/spool")

    def settings(self, **changes: Any) -> Settings:
        """Return settings with short intervals, so that a dead worker is detected within a test."""
        values: dict[str, Any] = {
            "home": self.folder / "home",
            "database_url": self.database_url,
            "broker_url": self.broker_url,
            "queue_prefix": self.prefix,
            "lease_ttl_s": 5.0,
            "poll_interval_s": 0.5,
            "sweep_interval_s": 0.5,
            "shutdown_grace_s": 10.0,
        }
        settings = Settings(**(values | changes))
        self.prefixes.add(settings.queue_prefix)
        return settings

    @property
    def store(self) -> Store:
        """The store, opened in the test's process."""
        return job_store(self.settings())

    def environment(self, **changes: Any) -> dict[str, str]:
        """Return the environment of a worker process."""
        settings = self.settings(**changes)
        inherited = {
            name: value for name, value in os.environ.items() if not name.startswith(("NSAI_WORK_", "TINKER_"))
        }
        configured = {
            f"NSAI_WORK_{name.upper()}": str(getattr(settings, name)) for name in type(settings).model_fields
        }
        # the test run turns warnings into errors; its child processes must not
        inherited.pop("PYTHONWARNINGS", None)
        return {**inherited, **configured, **self.variables}

    def start_worker(
        self, *arguments: str, ready: bool = True, cwd: Path | None = None, **changes: Any
    ) -> WorkerProcess:
        """Start a worker, in ``cwd`` or the rig's folder. Returns once it claims jobs, or at once without
        ``ready``."""
        log = self.folder / f"worker-{len(self.workers)}.log"
        with log.open("wb") as file:
            process = CliProcess(
                ["worker", *arguments],
                env=self.environment(**changes),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                cwd=cwd or self.folder,
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
        """Return the handle of a job of this rig."""
        return JobHandle(job_id, self.settings())

    def close(self) -> None:
        """Kill the workers, close the connections, and delete the queues."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait(WAIT_S)
        close_connections()
        _remove_queues(self)


@contextlib.contextmanager
def open_rig(request: pytest.FixtureRequest, folder: Path, *, notifications: bool = True) -> Iterator[Rig]:
    """Open a rig for the request's parameter, one of ``PAIRS``. ``notifications`` are those of PostgreSQL."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            rig = Rig.embedded(folder)
        else:
            broker_url = request.getfixturevalue(f"{request.param}_url")
            database_url = stack.enter_context(new_database(request.getfixturevalue("postgres_url")))
            rig = Rig(folder, database_url if notifications else without_notifications(database_url), broker_url)
        stack.callback(rig.close)
        yield rig


class Proxy:
    """A TCP proxy to the service of a URL, whose connections can be cut, or held as by a network that drops
    packets. ``url`` is the URL through the proxy."""

    def __init__(self, url: str) -> None:
        service = urlsplit(url)
        scheme = service.scheme.partition("+")[0]
        self._target = (service.hostname or "127.0.0.1", service.port or DEFAULT_PORTS[scheme])
        self._listener = socket.create_server(("127.0.0.1", 0))
        account = service.netloc.rpartition("@")[0]
        address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self.url = service._replace(netloc=f"{account}@{address}" if account else address).geturl()
        self._open = threading.Event()
        self._open.set()
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def open(self) -> None:
        """Accept connections from now on, and send on what was held."""
        self._open.set()
        self._flowing.set()

    def hold(self) -> None:
        """Keep all connections and accept new ones, but send nothing on."""
        self._flowing.clear()

    def cut(self) -> None:
        """Close all connections and refuse new ones."""
        with self._lock:
            self._open.clear()
            sockets, self._sockets = self._sockets, []
        for connection in sockets:
            _close(connection)
        self._flowing.set()

    def close(self) -> None:
        """Close all connections and stop listening."""
        self.cut()
        _close(self._listener)
        self._thread.join(WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = self._connect()
            if server is None:
                _close(client)
                continue
            with self._lock:
                self._sockets += [client, server]
            for source, sink in ((client, server), (server, client)):
                threading.Thread(target=self._pump, args=(source, sink), daemon=True).start()

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flowing.wait()
                sink.sendall(data)
            self._flowing.wait()
        _close(source)
        _close(sink)

    def _connect(self) -> socket.socket | None:
        try:
            return socket.create_connection(self._target) if self._open.is_set() else None
        except OSError:
            return None


def _close(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


def until(
    condition: Callable[[], Any],
    description: str,
    context: Callable[[], object] = lambda: "",
    timeout_s: float = WAIT_S,
) -> Any:
    """Poll a condition until it is true, and return its value: the longer it takes, the less often."""
    start = time.monotonic()
    while not (value := condition()):
        waited = time.monotonic() - start
        assert waited < timeout_s, f"not within {timeout_s} s: {description}\n{context()}"
        time.sleep(min(max(waited / 10, 0.01), 0.1))
    return value


def until_running(handle: JobHandle) -> None:
    """Wait until a worker has claimed the job. Also returns if the job has ended since then."""
    until(lambda: any(event.name == "job.running" for event in handle.events()), "the job runs")


def command(name: str = "noop", **fields: Any) -> Job:
    """Return a job for the fake backend's command ``noop``, ``echo``, ``sleep`` or ``fail``."""
    arguments = fields.pop("arguments", {})
    return Job.parse(
        {"kind": "tool_call", "backend": "fake", "payload": {"command": name, "arguments": arguments}, **fields}
    )


@cache
def sqlite_template() -> Path:
    """A migrated, empty SQLite file, to be copied."""
    folder = tempfile.TemporaryDirectory()
    atexit.register(folder.cleanup)
    path = Path(folder.name) / "jobs.db"
    migrate_store(f"sqlite:///{path}")
    return path


@cache
def postgres_template(server: str) -> str:
    """The name of a migrated, empty database, to be copied."""
    opened = contextlib.ExitStack()
    atexit.register(opened.close)
    url = opened.enter_context(new_database(server, template="template1"))
    migrate_store(url)
    return str(make_url(url).database)


@contextlib.contextmanager
def new_database(server: str, *, template: str | None = None) -> Iterator[str]:
    """Create a database on a PostgreSQL server, by default with empty tables, and drop it at the end."""
    template = template or postgres_template(server)
    name = f"nsai_test_{secrets.token_hex(6)}"
    # the template lives for the session, and no connection with it
    engine = create_engine(server, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    try:
        with engine.connect() as connection:
            connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
        yield make_url(server).set(database=name).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)"))
        engine.dispose()


def without_notifications(database_url: str) -> str:
    """Return the address of a database with its notifications turned off."""
    return make_url(database_url).update_query_dict({"notices": "off"}).render_as_string(hide_password=False)


def _remove_queues(rig: Rig) -> None:
    from nsai_work.dispatch.broker import broker_connection
    from nsai_work.dispatch.queues import wake_queues

    with contextlib.suppress(OSError), broker_connection(rig.settings()) as connection:
        channel = connection.default_channel
        for prefix in rig.prefixes:
            for queue in wake_queues(prefix, rig.broker_url):
                queue(channel).delete()
