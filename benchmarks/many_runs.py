"""Measures 500 concurrent training runs in one worker process, against a development server with 100 ms of latency.

    python benchmarks/many_runs.py [--runs 500] [--steps 10] [--latency-ms 100] [--max-mib 2]

Prints the worker's memory per run (growth over its memory after one run, divided by the runs), its event loop lag,
and steps per second. Exits with 1 if a run did not succeed or a run took more memory than the limit.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from own_processes import run_main

from backends.tinkex_dev.server import DEV_KEY, DevProcess
from nsai_work import Job, JobHandle, Settings, submit_many
from nsai_work.client.connections import close_connections, job_store
from nsai_work.lifecycle import JobStatus
from nsai_work.store import JobFilter

TIMEOUT_S = 1800


def main() -> int:
    """Measure and print. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=500)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--latency-ms", type=float, default=100)
    parser.add_argument("--database", default="", help="PostgreSQL URL of an empty database; SQLite without it")
    parser.add_argument("--max-mib", type=float, default=2.0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as name:
        folder = Path(name)
        os.environ["NSAI_WORK_HOME"] = str(folder)
        with DevProcess(folder / "service", "--latency-ms", str(options.latency_ms)) as server:
            os.environ.update(TINKER_BASE_URL=server.url, TINKER_API_KEY=DEV_KEY)
            return measure(options, folder)


def measure(options: argparse.Namespace, folder: Path) -> int:
    """Measure one run first, for the baseline of the worker, then all runs at once."""
    settings = Settings(home=folder, database_url=options.database, concurrency=options.runs, log_level="info")
    data = _write_data(folder)
    log = folder / "worker.log"
    with log.open("wb") as output:
        worker = subprocess.Popen(
            [sys.executable, "-m", "nsai_work.cli", "worker", "--concurrency", str(options.runs)],
            env={**os.environ, "NSAI_WORK_DATABASE_URL": settings.database_url},
            stdout=output,
            stderr=output,
        )
    try:
        submit_many([_job(data, 2, 0)], settings)[0].result(timeout=TIMEOUT_S)
        before, cpu_before = _memory_mib(worker.pid), _cpu_s(worker.pid)
        started_at = time.monotonic()
        handles = submit_many([_job(data, options.steps, seed) for seed in range(1, options.runs + 1)], settings)
        submitted = time.monotonic() - started_at
        peak, concurrency = _watch(worker.pid, settings, handles)
        took, cpu = time.monotonic() - started_at, _cpu_s(worker.pid) - cpu_before
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(60)
    succeeded = sum(handle.status() is JobStatus.SUCCEEDED for handle in handles)
    close_connections()
    each = (peak - before) / options.runs
    lags = re.findall(r"loop_lag_(\w+)_ms=([\d.]+)", log.read_text())
    print(f"runs succeeded     {succeeded} of {options.runs}, at most {concurrency} at once")
    print(f"submitted in       {submitted:.1f} s")
    print(f"all ended in       {took:.1f} s, {options.runs * options.steps / took:.0f} steps/s")
    print(f"worker time        {cpu:.1f} s of CPU, {cpu / options.runs / options.steps * 1000:.1f} ms a step")
    print(f"worker memory      {before:.0f} MiB after one run, {peak:.0f} MiB at its peak: {each:.2f} MiB a run")
    print("loop lag           " + ", ".join(f"{name} {value} ms" for name, value in lags))
    return 0 if succeeded == options.runs and each <= options.max_mib else 1


def _watch(pid: int, settings: Settings, handles: list[JobHandle]) -> tuple[float, int]:
    store, peak, concurrency = job_store(settings), 0.0, 0
    deadline = time.monotonic() + TIMEOUT_S
    while True:
        peak = max(peak, _memory_mib(pid))
        running = store.list_jobs(JobFilter(status=JobStatus.RUNNING), limit=len(handles))
        queued = store.list_jobs(JobFilter(status=JobStatus.QUEUED), limit=1)
        concurrency = max(concurrency, len(running))
        if not running and not queued:
            return peak, concurrency
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(running)} runs have not ended")
        time.sleep(0.5)


def _memory_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


def _cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _job(data: Path, steps: int, seed: int) -> Job:
    return Job.parse(
        {
            "kind": "training_step",
            "backend": "tinkex",
            "payload": {
                "base_model": "tiny-lm",
                "data": {"path": str(data)},
                "lora": {"rank": 4},
                "batch_size": 4,
                "max_steps": steps,
                "seed": seed,
                "checkpoint_policy": {"strategy": "last"},
            },
        }
    )


def _write_data(folder: Path) -> Path:
    file = folder / "sums.jsonl"
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"What is {n} plus {n}?"},
                {"role": "assistant", "content": f"{n + n}."},
            ]
        }
        for n in range(50)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


if __name__ == "__main__":
    run_main(main)
