"""The page over a store of 10,000 jobs and a run of 100,000 steps: time and size of each answer, peak memory.

    python benchmarks/page.py [--jobs 10000] [--steps 100000]

The page runs as `nsai-work page` in a process of its own. Each time is the best of five requests.
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
from sqlalchemy import insert

from nsai_work import Job, Settings
from nsai_work.store import Store, open_store
from nsai_work.store.queries.jobs import seq_of
from nsai_work.store.schema import events, steps

REQUESTS = 5
BATCH = 5_000


def fill(store: Store, jobs: int, length: int) -> str:
    """Submit jobs, and write the steps of the first one. Returns its id."""
    payload = {"base_model": "tiny-lm", "data": {"path": "/data/x.jsonl"}, "max_steps": length}
    submitted = [Job(kind="training_step", payload=payload, name=f"job {number}") for number in range(jobs)]
    for start in range(0, jobs, 500):
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


def main() -> None:
    """Fill a store, serve it, and measure."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=100_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as home:
        store = open_store(Settings(home=Path(home)).database_url)
        job_id = quote(fill(store, arguments.jobs, arguments.steps))
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


if __name__ == "__main__":
    main()
