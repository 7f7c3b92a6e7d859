"""Measures throughput and submit-to-start latency of no-op jobs, beside other queues on the same services.

    python benchmarks/dispatch.py --postgres postgresql://USER@HOST/NAME --amqp amqp://... --redis redis://...
                                  [--peers PYTHON] [--jobs 3000] [--probes 60] [--only SUBSTRING]

``--peers`` is a Python with procrastinate, dbos and Celery installed, by default the environment that
``python tests/peers/provision.py queues`` creates; a peer that is not installed is skipped with a message.

Throughput: one process submits jobs as fast as it can, while one worker process runs them. Latency: one job at a
time on an idle system, from before the submit call to the start of the job's body (for nsai-work: to the committed
claim). All subjects run one after the other.
"""

import argparse
import contextlib
import os
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from kombu import Connection
from own_processes import run_main
from peer_environment import QUEUES, how_to_install, peer_python
from sqlalchemy import create_engine, make_url, text

from nsai_work.dispatch.queues import queue_name
from nsai_work.job import Priority

ROOT = Path(__file__).parents[1]
TIMEOUT_S = 180.0


@dataclass(frozen=True)
class Subject:
    """A queue to measure. ``variables`` may contain {folder}, {database}, {plain_database} and {name}."""

    title: str
    module: str
    variables: dict[str, str] = field(default_factory=dict)
    needs: str | None = None
    needs_database: bool = False


@dataclass(frozen=True)
class Figures:
    """Jobs per second, and milliseconds."""

    throughput: float
    p50_ms: float
    p99_ms: float


def subjects(options: argparse.Namespace) -> list[Subject]:
    """Return the subjects that the given services support."""
    found = [
        Subject(
            "nsai-work, embedded (SQLite + spool)",
            "ours",
            {"NSAI_WORK_HOME": "{folder}/home"},
        ),
        Subject("DBOS on SQLite", "dbos_workflows", {"BENCH_DATABASE": "sqlite:///{folder}/dbos.sqlite"}, "dbos"),
    ]
    for name, url in (("RabbitMQ", options.amqp), ("Redis", options.redis)):
        if not url:
            continue
        celery = {"BENCH_BROKER": url, "BENCH_QUEUE": "{name}"}
        ours = {"NSAI_WORK_HOME": "{folder}/home", "NSAI_WORK_BROKER_URL": url, "NSAI_WORK_QUEUE_PREFIX": "{name}"}
        if options.postgres:
            ours |= {"NSAI_WORK_DATABASE_URL": "{database}"}
            found.append(Subject(f"nsai-work, PostgreSQL + {name}", "ours", ours, needs_database=True))
            rows = celery | {"BENCH_RESULTS": "db+{database}"}
            found.append(Subject(f"Celery, {name}, results in PostgreSQL", "plain_celery", rows, "celery", True))
        found.append(Subject(f"Celery, {name}, keeps no row", "plain_celery", celery, "celery"))
    if options.postgres:
        peer = {"BENCH_DATABASE": "{plain_database}"}
        found.append(Subject("procrastinate on PostgreSQL", "procrastinate_jobs", peer, "procrastinate", True))
        found.append(
            Subject("DBOS on PostgreSQL", "dbos_workflows", {"BENCH_DATABASE": "{database}"}, "dbos", True)
        )
    return [subject for subject in found if options.only.lower() in subject.title.lower()]


def main() -> int:
    """Measure all subjects and print a table, with the ratio of nsai-work to each peer."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--postgres", default=os.environ.get("NSAI_TEST_POSTGRES_URL"))
    parser.add_argument("--amqp", default=os.environ.get("NSAI_TEST_AMQP_URL"))
    parser.add_argument("--redis", default=os.environ.get("NSAI_TEST_REDIS_URL"))
    parser.add_argument("--peers", default=str(peer_python(QUEUES) or sys.executable))
    parser.add_argument("--jobs", type=int, default=3000)
    parser.add_argument("--probes", type=int, default=60)
    parser.add_argument("--only", default="")
    options = parser.parse_args()
    measured: dict[str, Figures] = {}
    for subject in subjects(options):
        python = options.peers if subject.needs else sys.executable
        if subject.needs and not _has(python, subject.needs):
            print(
                f"{subject.title:<44} skipped: {subject.needs} is not installed; {how_to_install(QUEUES)}",
                flush=True,
            )
            continue
        figures = measure(subject, python, options)
        measured[subject.title] = figures
        print(
            f"{subject.title:<44} {figures.throughput:8.0f} jobs/s   start p50 {figures.p50_ms:7.1f} ms   "
            f"p99 {figures.p99_ms:7.1f} ms",
            flush=True,
        )
    _ratios(measured)
    return 0


def _ratios(measured: dict[str, Figures]) -> None:
    ours = {title: figures for title, figures in measured.items() if title.startswith("nsai-work")}
    for our_title, figures in ours.items():
        for title, other in measured.items():
            if title not in ours and other.throughput:
                print(
                    f"{our_title} / {title}: throughput x{figures.throughput / other.throughput:.2f}, "
                    f"p50 x{figures.p50_ms / other.p50_ms:.2f}"
                )


def measure(subject: Subject, python: str, options: argparse.Namespace) -> Figures:
    """Start a worker, warm it up, then measure throughput and latency."""
    with _environment(subject, options) as (folder, environment):
        command = [python, "-m", f"benchmarks.dispatch_subjects.{subject.module}"]
        records = Path(environment["BENCH_OUT"] + ".ran")
        with _worker(command, environment, folder):
            warm = _warm_up(command, environment, records)
            _submit(command, environment, "bulk", options.jobs, 0)
            _wait(records, warm + options.jobs + 1)
            time.sleep(1)
            _submit(command, environment, "probe", options.probes, 0.05)
            _wait(records, warm + options.jobs + options.probes + 2)
        return _figures(environment["BENCH_OUT"], options.jobs)


def _warm_up(command: list[str], environment: dict[str, str], records: Path) -> int:
    """Submit a few jobs until the worker has created its tables and runs them. Returns their number."""
    done = 0
    for turn in range(20):
        with contextlib.suppress(subprocess.CalledProcessError):
            _submit(command, environment, f"warm{turn}-", 10, 0.02)
            done += 11
            if done == 22:
                break
        time.sleep(1)
    _wait(records, done)
    return done


def _figures(records: str, jobs: int) -> Figures:
    submitted, ran = _read(records + ".submitted"), _read(records + ".ran")
    began = _read(records + ".began") or ran
    bulk = [key for key in ran if key.startswith("bulk") and key in submitted]
    span = max(ran[key] for key in bulk) - min(submitted[key] for key in bulk)
    waits = sorted(began[key] - submitted[key] for key in ran if key.startswith("probe") and key in submitted)
    return Figures(jobs / span, waits[len(waits) // 2] * 1000, waits[int(len(waits) * 0.99)] * 1000)


def _read(name: str) -> dict[str, float]:
    file = Path(name)
    lines = file.read_text().splitlines() if file.exists() else []
    return {key: float(at) for key, at in (line.split() for line in lines)}


@contextlib.contextmanager
def _environment(subject: Subject, options: argparse.Namespace) -> Iterator[tuple[Path, dict[str, str]]]:
    name = f"bench_{secrets.token_hex(4)}"
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(ignore_cleanup_errors=True)))
        database = stack.enter_context(_database(options.postgres, name)) if subject.needs_database else ""
        values = {"folder": str(folder), "name": name, "database": database}
        values["plain_database"] = database.replace("+psycopg", "")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "BENCH_OUT": str(folder / "records")}
        environment["NSAI_WORK_LOG_LEVEL"] = "warning"
        environment |= {key: value.format(**values) for key, value in subject.variables.items()}
        broker = environment.get("NSAI_WORK_BROKER_URL") or environment.get("BENCH_BROKER") or ""
        if broker.startswith("amqp"):
            stack.callback(_delete_queues, broker, name)
        yield folder, environment


def _delete_queues(broker: str, prefix: str) -> None:
    """Delete the queues of a subject: RabbitMQ reserves file handles for each."""
    with Connection(broker) as connection:
        for queue in (prefix, *(queue_name(prefix, priority) for priority in Priority)):
            connection.default_channel.queue_delete(queue)


@contextlib.contextmanager
def _database(server: str, name: str) -> Iterator[str]:
    engine = create_engine(make_url(server).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    try:
        yield make_url(server).set(drivername="postgresql+psycopg", database=name).render_as_string(False)
    finally:
        with engine.connect() as connection:
            connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
        engine.dispose()


@contextlib.contextmanager
def _worker(command: list[str], environment: dict[str, str], folder: Path) -> Iterator[None]:
    with (folder / "worker.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "work"], env=environment, stdout=log, stderr=log, start_new_session=True
        )
        time.sleep(4)
        try:
            yield
        except TimeoutError:
            print((folder / "worker.log").read_text()[-2000:], file=sys.stderr)
            raise
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _submit(command: list[str], environment: dict[str, str], prefix: str, count: int, pause_s: float) -> None:
    quiet = subprocess.DEVNULL if prefix.startswith("warm") else None
    subprocess.run(
        [*command, "submit", prefix, str(count), str(pause_s)], env=environment, check=True, stderr=quiet
    )


def _wait(records: Path, lines: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while not records.exists() or records.read_bytes().count(b"\n") < lines:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{records} has fewer than {lines} lines")
        time.sleep(0.1)


def _has(python: str, module: str) -> bool:
    return subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode == 0


if __name__ == "__main__":
    run_main(main)
