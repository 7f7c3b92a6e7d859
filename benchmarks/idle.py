"""The cost of idle workers: processor time of each worker and of PostgreSQL's processes, and queries a second.

    python benchmarks/idle.py [--postgres URL] [--broker URL] [--workers 10] [--seconds 600]

Without ``--postgres`` the workers share an embedded store. With it they have a database of their own, which is
dropped afterwards, on a server of this machine; each reaches it through a proxy of this process that counts its
statements. The short form is ``--workers 3 --seconds 60``.

Returns 1 if an aim is missed: each worker below 1 % of a core; on PostgreSQL below 2 queries a second, 4 for the
leader, and the server's processes for the workers below 1 % together. Transactions' own statements (BEGIN, COMMIT)
are counted apart.
"""

import argparse
import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

from counting_proxy import CountingProxy
from own_processes import run_main
from sqlalchemy import create_engine, make_url, text

SETTLE_S = 15.0
START_S = 60.0
TICKS = os.sysconf("SC_CLK_TCK")
MAX_SHARE = 0.01
MAX_QUERIES = 2.0
MAX_LEADER_QUERIES = 4.0


@dataclass
class Worker:
    """A worker process. ``proxy`` is its way to the database, on PostgreSQL."""

    process: subprocess.Popen[bytes]
    log: Path
    proxy: CountingProxy | None = None

    def wait_until_started(self) -> None:
        """Return once it claims jobs."""
        deadline = time.monotonic() + START_S
        while "worker.started" not in self.log.read_text():
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(self.log.read_text())
            time.sleep(0.1)


@dataclass
class Database:
    """A database of the workers' own on a PostgreSQL server."""

    server: str
    name: str = field(default_factory=lambda: f"idle_{secrets.token_hex(4)}")

    def execute(self, statement: str) -> list[int]:
        """Run a statement on the server. Returns the first column."""
        engine = create_engine(self.server, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            found = connection.execute(text(statement))
            values = list(found.scalars()) if found.returns_rows else []
        engine.dispose()
        return values

    def processes(self) -> list[int]:
        """The server's processes that serve the workers."""
        return self.execute(f"SELECT pid FROM pg_stat_activity WHERE datname = '{self.name}'")

    def shared_processes(self) -> list[int]:
        """The server's processes that serve all databases: they work for others too, if others use the server."""
        return self.execute("SELECT pid FROM pg_stat_activity WHERE backend_type NOT LIKE '%client backend%'")


def cpu_s(pid: int) -> float:
    """The processor time that a process has used; 0 if it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / TICKS


@contextmanager
def database(server: str) -> Iterator[Database]:
    """A fresh database, dropped at the end."""
    made = Database(make_url(server).set(drivername="postgresql+psycopg").render_as_string(hide_password=False))
    made.execute(f"CREATE DATABASE {made.name}")
    try:
        yield made
    finally:
        made.execute(f"DROP DATABASE {made.name} WITH (FORCE)")


@contextmanager
def worker(folder: Path, number: int, store: Database | None, broker: str | None) -> Iterator[Worker]:
    """A worker, ended at the end."""
    variables = {"NSAI_WORK_LOG_FORMAT": "json", "NSAI_WORK_QUEUE_PREFIX": f"idle-{folder.name}"}
    variables["NSAI_WORK_HOME"] = str(folder / (f"home-{number}" if store else "home"))
    variables["NSAI_WORK_BROKER_URL"] = broker or f"spool://localhost{folder}/spool"
    with ExitStack() as opened:
        proxy = None
        if store is not None:
            url = make_url(store.server)
            proxy = opened.enter_context(CountingProxy(url.host or "127.0.0.1", url.port or 5432))
            through = url.set(host="127.0.0.1", port=proxy.port, database=store.name)
            variables["NSAI_WORK_DATABASE_URL"] = through.render_as_string(hide_password=False)
        log = folder / f"worker-{number}.log"
        command = [sys.executable, "-m", "nsai_work.cli", "worker"]
        with log.open("wb") as output:
            process = subprocess.Popen(command, env=os.environ | variables, stdout=output, stderr=output)
        try:
            started = Worker(process, log, proxy)
            started.wait_until_started()
            yield started
        finally:
            process.terminate()
            process.wait()


@dataclass(frozen=True)
class Reading:
    """All counters at a moment."""

    at: float
    workers_s: list[float]
    own_s: float
    shared_s: float
    statements: list[int]
    transactions: list[int]


def read(workers: list[Worker], store: Database | None) -> Reading:
    """Read all counters."""
    proxies = [each.proxy for each in workers if each.proxy is not None]
    return Reading(
        at=time.monotonic(),
        workers_s=[cpu_s(each.process.pid) for each in workers],
        own_s=sum(map(cpu_s, store.processes())) if store else 0.0,
        shared_s=sum(map(cpu_s, store.shared_processes())) if store else 0.0,
        statements=[proxy.statements for proxy in proxies],
        transactions=[proxy.transactions for proxy in proxies],
    )


def report(before: Reading, after: Reading) -> bool:
    """Print what was used in between. Returns whether all aims are reached."""
    seconds = after.at - before.at
    shares = sorted((b - a) / seconds for a, b in zip(before.workers_s, after.workers_s, strict=True))
    figures: dict[str, object] = {
        "seconds": round(seconds, 1),
        "workers": len(shares),
        "worker_percent_median": round(100 * median(shares), 2),
        "worker_percent_most": round(100 * shares[-1], 2),
    }
    reached = shares[-1] < MAX_SHARE
    if before.statements:
        rates = sorted((b - a) / seconds for a, b in zip(before.statements, after.statements, strict=True))
        framed = [(b - a) / seconds for a, b in zip(before.transactions, after.transactions, strict=True)]
        own = (after.own_s - before.own_s) / seconds
        figures |= {
            "postgres_percent_of_the_workers": round(100 * own, 2),
            "postgres_percent_of_shared_processes": round(100 * (after.shared_s - before.shared_s) / seconds, 2),
            "queries_per_second_median": round(median(rates), 2),
            "queries_per_second_most_but_leader": round(rates[-2] if len(rates) > 1 else rates[-1], 2),
            "queries_per_second_leader": round(rates[-1], 2),
            "begin_and_commit_per_second_median": round(median(framed), 2),
        }
        reached &= own < MAX_SHARE and rates[-1] < MAX_LEADER_QUERIES and rates[:-1][-1:] < [MAX_QUERIES]
    print(json.dumps(figures, indent=2))
    return reached


def main() -> int:
    """Start the workers, let them idle, and print; 1 if an aim is missed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--postgres", help="URL of a PostgreSQL server on this machine, with a user that may create databases"
    )
    parser.add_argument("--broker", help="URL of a broker; by default a spool folder")
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=600.0)
    chosen = parser.parse_args()
    with ExitStack() as opened:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        store = opened.enter_context(database(chosen.postgres)) if chosen.postgres else None
        workers = [
            opened.enter_context(worker(folder, number, store, chosen.broker)) for number in range(chosen.workers)
        ]
        time.sleep(SETTLE_S)
        before = read(workers, store)
        time.sleep(chosen.seconds)
        return int(not report(before, read(workers, store)))


if __name__ == "__main__":
    run_main(main)
