"""Fixtures that run the command line in processes of its own, together with dev servers and workers."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from nsai_work import Job
from nsai_work.store import Store, open_store
from tests import zygote
from tests.conversations import write_conversations

Done: TypeAlias = "subprocess.CompletedProcess[str]"

ROOT = Path(__file__).parents[2]
TIMEOUT_S = 240
POLL_INTERVAL_S = 0.1


@dataclass(frozen=True)
class Cli:
    """Runs ``nsai-work`` in an environment without settings, except for a home of its own."""

    home: Path
    variables: dict[str, str] = field(default_factory=dict)

    @property
    def environment(self) -> dict[str, str]:
        """The environment of its processes."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("NSAI_WORK_", "TINKER_", "OPENAI_"))
        }
        return {**kept, "NSAI_WORK_HOME": str(self.home), "COLUMNS": "200", **self.variables}

    def command(self, *arguments: object) -> list[str]:
        """Build the command line of a call."""
        return [sys.executable, "-m", "nsai_work.cli", *map(str, arguments)]

    def run(
        self, *arguments: object, stdin: str = "", timeout: float = TIMEOUT_S
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end."""
        return zygote.run([*map(str, arguments)], env=self.environment, stdin=stdin, timeout=timeout)

    def json(self, *arguments: object, code: int = 0) -> Any:
        """Run a command with ``--json``, assert its exit code, and parse its output."""
        done = self.run(*arguments, "--json")
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    @contextmanager
    def running(self, *arguments: object) -> Iterator["subprocess.Popen[str]"]:
        """Run a command in the background; SIGTERM stops it at the end of the context."""
        process = zygote.CliProcess(
            [*map(str, arguments)],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            process.communicate(timeout=TIMEOUT_S)

    @contextmanager
    def dev_server(self, *arguments: object) -> Iterator[str]:
        """Run a dev server in this home, and yield its URL."""
        with self.running("dev-server", "--port", 0, "--json", *arguments) as process:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["url"]

    @contextmanager
    def store(self) -> Iterator[Store]:
        """Open this home's store in the test's process: starting processes to poll would slow the worker down."""
        store = open_store(f"sqlite:///{self.home / 'nsai-work.db'}")
        try:
            yield store
        finally:
            store.close()

    def stored(self) -> list[Job]:
        """Return the jobs of this home's store, newest first."""
        if not (self.home / "nsai-work.db").exists():
            return []
        with self.store() as store:
            return store.list_jobs()

    def wait_for_step(self) -> str:
        """Wait for the first optimizer step of the newest job, and return the id of the job."""

        until(self.stored, "the first job")
        with self.store() as store:

            def find() -> str | None:
                newest = store.list_jobs()[0].id
                return newest if store.steps(newest) else None

            return str(until(find, "the first step"))

    def wait_for(self, job_id: str, *statuses: str) -> Job:
        """Wait until a job has one of these statuses, and return the job."""
        with self.store() as store:

            def find() -> Job | None:
                job = store.get(job_id)
                return job if job.status in statuses else None

            found: Job = until(find, f"job {job_id} is {' or '.join(statuses)}")
            return found


def until(find: Callable[[], Any], what: str, timeout: float = TIMEOUT_S) -> Any:
    """Poll until ``find`` returns a true value, and return it."""
    deadline = time.monotonic() + timeout
    while not (found := find()):
        assert time.monotonic() < deadline, f"not within {timeout} s: {what}"
        time.sleep(POLL_INTERVAL_S)
    return found


@pytest.fixture
def cli(tmp_path: Path) -> Cli:
    """The command line with an empty home."""
    return Cli(tmp_path / "home")


@pytest.fixture
def conversations(tmp_path: Path) -> Path:
    """A small data set of eight conversations."""
    return write_conversations(tmp_path / "conversations.jsonl", 8)


def small_training(data: Path) -> dict[str, Any]:
    """A small training job for the fake backend, in a file beside its data."""
    return {
        "kind": "training_step",
        "backend": "fake",
        "payload": {
            "base_model": "tiny-lm",
            "data": {"path": data.name},
            "lora": {"rank": 4},
            "optimizer": {"learning_rate": 0.01},
            "batch_size": 4,
            "max_steps": 6,
            "checkpoint_policy": {"save_every": 2, "keep_last": 2},
        },
    }


@pytest.fixture
def job(conversations: Path) -> dict[str, Any]:
    """A small training job for the fake backend."""
    return small_training(conversations)


@pytest.fixture
def job_file(tmp_path: Path) -> Callable[[Any], Path]:
    """Write a job file to the folder of the data set."""

    def write(content: Any) -> Path:
        file = tmp_path / "job.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content))
        return file

    return write
