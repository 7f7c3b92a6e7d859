"""The page and the commands over a store of 10,000 jobs and a run of 100,000 steps: time, size, peak memory.

    python benchmarks/page.py [--jobs 10000] [--steps 100000]

The long run is running, a third of the other jobs has ended, and the rest waits. The page runs as `nsai-work page`
in a process of its own; each time is the best of five requests. Each command is a process, the best of three.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

import httpx
from own_processes import run_main
from sqlalchemy import insert, update

from nsai_work import Job, Settings
from nsai_work.store import Store, open_store
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import events, jobs, steps

REQUESTS = 5
CALLS = 3
RUN = """
import atexit, sys, time
from pathlib import Path
def report():
    peak = next(line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
    print(time.process_time(), peak, file=sys.stderr)
atexit.register(report)
sys.argv[0] = "nsai-work"
from nsai_work.cli import main
main()
"""
BATCH = 5_000


def fill(store: Store, number: int, length: int) -> str:
    """Submit jobs, and write the steps of the first one. Returns its id."""
    payload = {"base_model": "tiny-lm", "data": {"path": "/data/x.jsonl"}, "max_steps": length}
    submitted = [Job(kind="training_step", payload=payload, name=f"job {index}") for index in range(number)]
    for start in range(0, number, 500):
        store.submit(submitted[start : start + 500])
    seq = store.database.read(lambda tx: seq_of(tx, submitted[0].id))
    now = datetime.now(UTC)
    common = {"job_seq": seq, "generation": 1, "superseded_by": None, "epoch": 0, "tokens": 1000}
    fixed = {"learning_rate": 1e-4, "metrics": {"grad_norm": 1.25}, "recorded_at": now}
    rows = [{**common, **fixed, "step": step, "loss": 3.0 / step**0.3} for step in range(1, length + 1)]
    with store.database.transaction() as tx:
        for start in range(0, length, BATCH):
            part = rows[start : start + BATCH]
            tx.connection.execute(insert(steps), part)
            data = [{"step": row["step"], "total_steps": length, "loss": row["loss"]} for row in part]
            new = [{"job_seq": seq, "at": now, "name": "step", "data": each} for each in data]
            tx.connection.execute(insert(events), new)
        running = {"status": "running", "worker_id": "host/b/n/1/1/a", "started_at": now, "attempt": 1, "fence": 1}
        running |= {"lease_ttl_ms": 10_000_000}
        tx.connection.execute(update(jobs).where(jobs.c.seq == seq).values(running))
        ended = {"status": "succeeded", "started_at": now, "completed_at": now, "result": {"loss": 1.0, "steps": 9}}
        tx.connection.execute(update(jobs).where(jobs.c.seq != seq, jobs.c.seq % 3 == 0).values(ended))
    return submitted[0].id


def measure(url: str, paths: list[str], pid: int) -> None:
    """Print the time and the size of each answer, and the peak memory of the server."""
    with httpx.Client(timeout=60) as client:
        for path in paths:
            best = float("inf")
            for _ in range(REQUESTS):
                began = time.perf_counter()
                answer = client.get(url + path)
                best = min(best, time.perf_counter() - began)
                answer.raise_for_status()
            print(f"{best * 1000:7.0f} ms {len(answer.content) / 1000:8.1f} kB  {path.partition('?')[0]}")
    status = Path(f"/proc/{pid}/status").read_text()
    peak = next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    print(f"{int(peak) / 1024:7.0f} MiB peak of the process")


def measure_commands(job_id: str, other: str, environment: dict[str, str]) -> None:
    """Print the time, the processor time and the peak memory of each command."""
    for words in (
        ["list"],
        ["show", job_id],
        ["show", job_id, "--json"],
        ["watch", job_id, "--timeout", "0"],
        ["plot", job_id],
        ["compare", job_id, other],
        ["queue"],
        ["workers"],
    ):
        found = []
        for _ in range(CALLS):
            began = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", RUN, *words], env=environment, capture_output=True, text=True, check=False
            )
            wall_s = time.perf_counter() - began
            cpu_s, peak_kib = map(float, done.stderr.splitlines()[-1].split())
            found.append((wall_s, cpu_s, peak_kib / 1024))
        wall, cpu, memory = (min(column) for column in zip(*found, strict=True))
        name = " ".join(word for word in words if word not in (job_id, other))
        print(f"{wall * 1000:7.0f} ms {cpu * 1000:5.0f} ms of processor {memory:5.0f} MiB  {name}")


def main() -> None:
    """Fill a store, serve it, and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        store = open_store(Settings(home=Path(home)).database_url)
        job_id = quote(fill(store, arguments.jobs, arguments.steps))
        other = next(job.id for job in store.list_jobs(limit=3) if job.id != job_id)
        store.close()
        command = [sys.executable, "-m", "nsai_work.cli", "page", "--listen", "0", "--json"]
        environment = os.environ | {"NSAI_WORK_HOME": home}
        process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
        assert process.stdout is not None
        try:
            url = json.loads(process.stdout.readline())["url"]
            own = [f"/job?id={job_id}", f"/job.json?id={job_id}", f"/job/curve.json?id={job_id}"]
            measure(url, ["/", "/jobs", *own, f"/compare?id={job_id}", "/queue", "/workers"], process.pid)
        finally:
            process.terminate()
            process.wait()
        measure_commands(job_id, other, environment)


if __name__ == "__main__":
    run_main(main)
