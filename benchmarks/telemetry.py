"""Measures what telemetry costs: jobs per second and processor time per job with it on and off, in one run.

    python benchmarks/telemetry.py [--jobs 2000] [--rounds 5]

A round is a process that submits no-op jobs to a store of its own (SQLite) and runs them on a worker in it, so
that all of the time is ours. Rounds of all ways take turns, and each is held against the round without telemetry
beside it. ``metrics``: scraped once a second. ``logs``: JSON at level info, to a file. ``traces``: an OpenTelemetry
SDK whose exporter drops the spans; ``sampled``: that with one trace in a hundred, as services have it. ``all``:
metrics, logs and sampled traces.
"""

import argparse
import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased

from nsai_work import Job, Settings, submit_many
from nsai_work.client.connections import job_store
from nsai_work.telemetry.job_events import JobEvent, add_hook
from nsai_work.telemetry.logs import configure_logging
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.runtime_thread import RuntimeThread

WAYS: dict[str, tuple[str, ...]] = {
    "off": (),
    "metrics": ("metrics",),
    "logs": ("logs",),
    "traces": ("traces",),
    "sampled": ("sampled",),
    "all": ("metrics", "logs", "sampled"),
}
BATCH = 200
WARM_UP = 200


class Dropped(SpanExporter):
    """An exporter that drops the spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drop them."""
        return SpanExportResult.SUCCESS


def main() -> int:
    """Measure all ways in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--way", choices=WAYS)
    options = parser.parse_args()
    if options.way is not None:
        print(json.dumps(measure(options.way, options.jobs)))
        return 0
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for number in range(options.rounds):
        # forth and back, so that a machine that becomes slower is no telemetry
        for way in list(WAYS)[:: 1 if number % 2 == 0 else -1]:
            command = [sys.executable, __file__, "--way", way, "--jobs", str(options.jobs)]
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True)
            rate, cpu_us = json.loads(done.stdout)
            found[way].append((rate, cpu_us))
    for way, rounds in found.items():
        rates = [rate / off for (rate, _), (off, _) in zip(rounds, found["off"], strict=True)]
        costs = [cpu / off for (_, cpu), (_, off) in zip(rounds, found["off"], strict=True)]
        rate, cpu_us = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{way:<8} {rate:6.0f} jobs/s  x{statistics.median(rates):.3f}"
            f"   {cpu_us:5.0f} us of processor a job  x{statistics.median(costs):.3f}"
        )
    return 0


def measure(way: str, jobs: int) -> tuple[float, float]:
    """Submit jobs and run them. Returns jobs per second, and microseconds of processor time per job."""
    parts = WAYS[way]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        sys.stderr = stack.enter_context((Path(folder) / "worker.log").open("w"))
        logged = "logs" in parts
        settings = Settings(
            home=Path(folder),
            database_url=f"sqlite:///{folder}/jobs.db",
            broker_url=f"spool://localhost{folder}/spool",
            log_format="json" if logged else "text",
            log_level="info" if logged else "warning",
        )
        configure_logging(settings)
        _trace(1.0 if "traces" in parts else 0.01 if "sampled" in parts else 0.0)
        job_store(settings)
        runtime = RuntimeThread(settings)
        if "metrics" in parts:
            stack.enter_context(_scraped(runtime, settings))
        runtime.start()
        stack.callback(runtime.stop)
        _run(settings, WARM_UP)
        began, cpu_began = time.perf_counter(), time.process_time()
        _run(settings, jobs)
        return jobs / (time.perf_counter() - began), (time.process_time() - cpu_began) / jobs * 1e6


def _run(settings: Settings, jobs: int) -> None:
    """Submit jobs, and wait until all have ended."""
    ended = threading.Semaphore(0)

    def on_event(event: JobEvent) -> None:
        if event.name == "job.succeeded":
            ended.release()

    remove = add_hook(on_event)
    for _ in range(0, jobs, BATCH):
        batch = [Job(kind="tool_call", backend="fake", payload={"command": "noop"}) for _ in range(BATCH)]
        submit_many(batch, settings)
    for _ in range(jobs):
        if not ended.acquire(timeout=120):
            raise TimeoutError("the jobs do not end")
    remove()


def _trace(share: float) -> None:
    """Trace this share of the submissions."""
    if share:
        provider = TracerProvider(sampler=ParentBased(TraceIdRatioBased(share)))
        provider.add_span_processor(BatchSpanProcessor(Dropped()))
        trace.set_tracer_provider(provider)


@contextlib.contextmanager
def _scraped(runtime: RuntimeThread, settings: Settings) -> Iterator[None]:
    """Read the metrics of a worker once a second."""
    stop = threading.Event()
    with contextlib.closing(Probes(runtime, settings)) as probes:

        def scrape() -> None:
            while not stop.wait(1.0):
                probes.metrics()

        thread = threading.Thread(target=scrape)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()


if __name__ == "__main__":
    sys.exit(main())
