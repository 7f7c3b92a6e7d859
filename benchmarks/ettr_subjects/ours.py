"""Our job, with two workers."""

import json
import os
import secrets
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

from peer_environment import REPOSITORY
from sqlalchemy import create_engine, make_url, text

from backends.tinkex_dev.server import DEV_KEY
from ettr_subjects.timing import Result
from nsai_work import Job, JobHandle, Settings, submit
from nsai_work.lifecycle import JobStatus

WORKERS: Final = 2
NAMESPACES: Final = ("unshare", "--pid", "--mount-proc", "--fork", "--kill-child=KILL")


@dataclass(frozen=True)
class Deployment:
    """Where the store is, and whether each worker has namespaces of its own."""

    postgres: str | None = None
    namespaces: bool = False


class OurRun:
    """A training job and its workers."""

    def __init__(self, folder: Path, url: str, deployment: Deployment, steps: int) -> None:
        self._folder = folder
        self._deployment = deployment
        self._steps = steps
        self._schema = f"ettr_{secrets.token_hex(4)}"
        self._variables = {"TINKER_BASE_URL": url, "TINKER_API_KEY": DEV_KEY, "NSAI_WORK_LOG_FORMAT": "json"}
        self._settings = Settings(home=folder / "home", database_url=self._database(), log_level="warning")
        self._workers: dict[str, subprocess.Popen[bytes]] = {}
        self._starting: dict[Path, subprocess.Popen[bytes]] = {}
        self._logs: list[IO[bytes]] = []
        self._handle: JobHandle | None = None

    def start(self) -> None:
        """Submit the job, and start both workers."""
        os.environ.update(self._variables)
        payload = {
            "base_model": "llama-3.2-1b",
            "data": {"path": str(REPOSITORY / "examples" / "conversations.jsonl")},
            "lora": {"rank": 16, "seed": 0},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 8,
            "max_steps": self._steps,
            "checkpoint_policy": {"strategy": "last", "save_every": 20},
        }
        for _ in range(WORKERS):
            self._start_worker()
        self._handle = submit(Job(kind="training_step", backend="tinkex", payload=payload), self._settings)

    def owned_since(self) -> float | None:
        """The claim of the owner, if the job runs and its owner is a live worker of ours."""
        events = [event for event in self._job.events() if event.name in ("job.running", "job.queued")]
        if not events or events[-1].name != "job.running" or events[-1].data["worker_id"] not in self._workers:
            return None
        return events[-1].at.timestamp()

    def kill_owner(self) -> None:
        """Kill the owner with its whole namespace."""
        owner = [event.data["worker_id"] for event in self._job.events() if event.name == "job.running"][-1]
        process = self._workers[str(owner)]
        process.send_signal(signal.SIGKILL)
        process.wait()
        del self._workers[str(owner)]
        self._start_worker(wait=False)

    def has_ended(self) -> bool:
        """Also looks for workers that have started meanwhile."""
        self._register()
        status = self._job.status()
        if status.ended and status is not JobStatus.SUCCEEDED:
            raise RuntimeError(f"the job is {status}: {self._job.job().error}")
        return status.ended

    def results(self) -> list[Result]:
        """The steps as they were recorded."""
        steps = [event for event in self._job.events() if event.name == "step"]
        return [Result(int(str(event.data["step"])), event.at.timestamp()) for event in steps]

    def losses(self) -> list[float]:
        """The losses of the effective steps."""
        return [step.loss for step in self._job.steps()]

    def close(self) -> None:
        """Kill the workers, and drop the schema."""
        for process in [*self._workers.values(), *self._starting.values()]:
            process.kill()
            process.wait()
        for log in self._logs:
            log.close()
        if self._deployment.postgres:
            with create_engine(self._server, isolation_level="AUTOCOMMIT").connect() as connection:
                connection.execute(text(f"DROP SCHEMA {self._schema} CASCADE"))

    @property
    def _job(self) -> JobHandle:
        assert self._handle is not None
        return self._handle

    @property
    def _server(self) -> str:
        url = make_url(str(self._deployment.postgres))
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)

    def _database(self) -> str:
        if self._deployment.postgres is None:
            return ""
        with create_engine(self._server, isolation_level="AUTOCOMMIT").connect() as connection:
            connection.execute(text(f"CREATE SCHEMA {self._schema}"))
        url = make_url(self._server).update_query_dict({"options": f"-csearch_path={self._schema}"})
        return url.render_as_string(hide_password=False)

    def _start_worker(self, *, wait: bool = True) -> None:
        """Start a worker with an empty home of its own, but for the SQLite store, which all share."""
        number = len(self._logs)
        home = self._folder / f"home-{number}" if self._deployment.postgres else self._settings.home
        environment = (
            os.environ
            | self._variables
            | {
                "NSAI_WORK_HOME": str(home),
                "NSAI_WORK_DATABASE_URL": self._settings.database_url,
                "NSAI_WORK_BROKER_URL": self._settings.broker_url,
            }
        )
        path = self._folder / f"worker-{number}.log"
        log = path.open("wb")
        self._logs.append(log)
        command = [sys.executable, "-m", "nsai_work.cli", "worker"]
        prefix = NAMESPACES if self._deployment.namespaces else ()
        process = subprocess.Popen([*prefix, *command], env=environment, stdout=log, stderr=log)
        self._starting[path] = process
        while wait and path in self._starting:
            self._register()
            if process.poll() is not None:
                raise RuntimeError(path.read_text())

    def _register(self) -> None:
        """Find the ids of workers that have started, in their logs."""
        for path, process in [*self._starting.items()]:
            for line in path.read_text().splitlines():
                entry = json.loads(line) if line.startswith("{") else {}
                if entry.get("event") == "worker.started":
                    self._workers[entry["worker_id"]] = process
                    del self._starting[path]
                    break
