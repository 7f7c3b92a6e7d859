"""A site for outages: a database, a dev server, and workers that each have a way of their own to both."""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work import Job, JobHandle, submit_many
from nsai_work.store import migrate_store
from tests.integration.training.harness import payload_of
from tests.rig import Proxy, Rig, WorkerProcess, until
from tests.verify.recorded_run import RecordedRun, recorded

STEPS, SLOW_MS = 60, 200
"""A training job that lasts until ``finish``; a step is two operations."""


class Site:
    """Workers on one database, whose acts are recorded."""

    def __init__(self, folder: Path, database_url: str, stack: ExitStack) -> None:
        self.folder, self._stack = folder, stack
        self.observer = Rig(folder, database_url, f"spool://localhost{folder}/spool")
        stack.callback(self.observer.close)
        self._server = stack.enter_context(DevServer(folder / "service", work_ms=SLOW_MS))
        self.service = Proxy(self._server.url)
        stack.callback(self.service.close)
        self._variables = {
            "TINKER_BASE_URL": self.service.url,
            "TINKER_API_KEY": DEV_KEY,
            "NSAI_WORK_PYTHON_ALLOW": "tests.functions",
        }
        effects = folder / "service" / "log.jsonl"
        self.run: RecordedRun = stack.enter_context(recorded(self._variables, folder / "history", effects))
        self._done = folder / "done"

    def worker(self, *arguments: str, **settings: Any) -> tuple[WorkerProcess, Proxy]:
        """Start a worker, and return it with the proxy to its database."""
        proxy = Proxy(self.observer.database_url)
        self._stack.callback(proxy.close)
        folder = self.folder / f"rig {len(list(self.folder.glob('rig *')))}"
        folder.mkdir()
        rig = Rig(folder, proxy.url, self.observer.broker_url, dict(self._variables), prefix=self.observer.prefix)
        self._stack.callback(rig.close)
        return rig.start_worker(*arguments, **settings), proxy

    def submit(self, functions: int = 1) -> tuple[JobHandle, list[JobHandle]]:
        """Submit a training job, and functions that run until ``finish``."""
        fields = {"base_model": "tiny-lm", "max_steps": STEPS, "checkpoint_policy": {"strategy": "last"}}
        training = Job(
            kind="training_step",
            backend="tinkex",
            payload=payload_of(self.folder, **fields).model_dump(mode="json"),
            # its way to the service may be away for a minute
            retry_policy={"max_attempts": 1000, "initial_delay_ms": 20, "max_delay_ms": 200},
        )
        handles = submit_many(
            [training, *(self._function(number) for number in range(functions))], self.observer.settings()
        )
        return handles[0], handles[1:]

    def _function(self, number: int) -> Job:
        arguments = {
            "lock": str(self.folder / f"lock-{number}"),
            "history": str(self.run.folder),
            "until": str(self._done),
        }
        command = {"command": "tests.functions:hold_alone", "arguments": arguments, "options": {"isolated": True}}
        return Job.parse({"kind": "tool_call", "backend": "python", "payload": command})

    def until_holding(self, functions: int = 1) -> None:
        """Return when the functions hold their locks."""
        locks = [self.folder / f"lock-{number}" for number in range(functions)]
        until(lambda: all(lock.exists() for lock in locks), "the functions run")

    def finish(self) -> None:
        """Let the functions return, and the service work without delay."""
        self._done.touch()
        self._server.fault(kind="latency", work_ms=0)

    def outcomes(self, handle: JobHandle) -> list[str | None]:
        """The outcomes of a job's attempts."""
        return [attempt.outcome for attempt in self.observer.store.attempts(handle.id)]

    def require_whole(self, training: JobHandle, functions: list[JobHandle]) -> str:
        """Check that all jobs succeed, with a clean history; return what the checker prints."""
        for handle in (training, *functions):
            handle.result(timeout=300)
        assert [step.step for step in training.steps()] == list(range(1, STEPS + 1))
        return self.run.require_clean()


@contextmanager
def own_postgres() -> Iterator["OwnPostgres"]:
    """Run a PostgreSQL server that may be restarted. Skips where its programs are not installed."""
    programs = [shutil.which(name) for name in ("initdb", "pg_ctl")]
    if None in programs:
        pytest.skip("initdb and pg_ctl are needed, to restart a server of this test's own")
    with tempfile.TemporaryDirectory() as folder:
        server = OwnPostgres(Path(folder) / "data")
        try:
            server.create()
            yield server
        finally:
            server.control("stop", "-m", "immediate")


class OwnPostgres:
    """A PostgreSQL server in a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # PostgreSQL refuses to run as root
        self._user = "postgres" if os.getuid() == 0 else None
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.url = f"postgresql+psycopg://postgres@127.0.0.1:{self._port}/postgres"

    def create(self) -> None:
        """Create the database, with our tables, and start the server."""
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(self._folder.parent, account.pw_uid, account.pw_gid)
        self._run("initdb", "-U", "postgres", "-A", "trust", "-N", "-D", str(self._folder))
        self.control("start")
        migrate_store(self.url)

    def control(self, action: str, *options: str) -> None:
        """Start, stop or restart the server, and return when that is done."""
        settings = f"-p {self._port} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off"
        log = str(self._folder.parent / "log")
        started = ["-o", settings, "-l", log] if action != "stop" else []
        self._run("pg_ctl", action, "-w", "-D", str(self._folder), *started, *options)

    def _run(self, *command: str) -> None:
        # a server that is started keeps what it inherits
        subprocess.run(
            command,
            user=self._user,
            cwd="/",
            check=True,
            timeout=120,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
