"""Measures what telemetry costs: jobs per second and processor time per job with it on and off, in one run.

    python benchmarks/telemetry.py [--jobs 500] [--rounds 20]

A way is a process that submits no-op jobs to a store of its own (SQLite) and runs them on a worker in it, so that
all of the time is ours. The ways take turns in short rounds, and each round is held against the round without
telemetry beside it. ``metrics``: scraped once in each round. ``logs``: JSON at level info, to a file.
``traces 0.1``: an OpenTelemetry SDK that samples this share of the submissions, evenly; its exporter drops the
spans. ``all``: metrics, logs, and traces at the ratio that docs/howto/observe.md advises.
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult

from nsai_work import Job, Settings, submit_many
from nsai_work.client.connections import job_store
from nsai_work.telemetry.job_events import JobEvent, add_hook
from nsai_work.telemetry.logs import configure_logging
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.runtime_thread import RuntimeThread

ADVISED_RATIO = 0.01


@dataclass(frozen=True, slots=True)
class Way:
    """What of telemetry is on."""

    metrics: bool = False
    logs: bool = False
    ratio: float | None = None


WAYS: dict[str, Way] = {
    "off": Way(),
    "metrics": Way(metrics=True),
    "logs": Way(logs=True),
    "traces 1.0": Way(ratio=1.0),
    "traces 0.1": Way(ratio=0.1),
    "traces 0.01": Way(ratio=0.01),
    "traces 0": Way(ratio=0.0),
    "all": Way(metrics=True, logs=True, ratio=ADVISED_RATIO),
}
BATCH = 50
WARM_UP = 500


class Dropped(SpanExporter):
    """An exporter that drops the spans."""

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Drop them."""
        return SpanExportResult.SUCCESS


class EvenSampler(Sampler):
    """Samples each n-th trace: the share of a short round is as that of a long one."""

    def __init__(self, ratio: float) -> None:
        self._ratio = ratio
        self._due = 0.0

    def should_sample(self, *_: Any, **__: Any) -> SamplingResult:
        """Sample the trace when its turn has come."""
        self._due += self._ratio
        if self._due < 1:
            return SamplingResult(Decision.DROP)
        self._due -= 1
        return SamplingResult(Decision.RECORD_AND_SAMPLE)

    def get_description(self) -> str:
        """The name of the sampler."""
        return f"EvenSampler{{{self._ratio}}}"


def main() -> int:
    """Measure all ways in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--jobs", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--serve", choices=WAYS)
    options = parser.parse_args()
    if options.serve is not None:
        serve(WAYS[options.serve])
        return 0
    found: dict[str, list[tuple[float, float]]] = {way: [] for way in options.ways}
    with contextlib.ExitStack() as stack:
        children = {way: stack.enter_context(_child(way)) for way in options.ways}
        for number in range(options.rounds):
            # forth and back, so that a machine that becomes slower is no telemetry
            for way in options.ways[:: 1 if number % 2 == 0 else -1]:
                found[way].append(_round(children[way], options.jobs))
    for way, rounds in found.items():
        rates = [rate / off for (rate, _), (off, _) in zip(rounds, found["off"], strict=True)]
        costs = [cpu / off for (_, cpu), (_, off) in zip(rounds, found["off"], strict=True)]
        # on a machine with other work, the least is what comes near to the cost itself
        least, least_off = (min(cpu for _, cpu in found[name]) for name in (way, "off"))
        rate, cpu_us = (statistics.median(column) for column in zip(*rounds, strict=True))
        print(
            f"{way:<11} {rate:6.0f} jobs/s  x{statistics.median(rates):.3f}"
            f"   {cpu_us:5.0f} us of processor a job  x{statistics.median(costs):.3f}"
            f"   at least {least:5.0f} us  x{least / least_off:.3f}"
        )
    return 0


@contextlib.contextmanager
def _child(way: str) -> "Iterator[subprocess.Popen[str]]":
    command = [sys.executable, __file__, "--serve", way]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        _round(child, WARM_UP)
        yield child
        if child.stdin is not None:
            child.stdin.close()


def _round(child: "subprocess.Popen[str]", jobs: int) -> tuple[float, float]:
    if child.stdin is None or child.stdout is None:
        raise ValueError("the child has pipes")
    child.stdin.write(f"{jobs}\n")
    child.stdin.flush()
    rate, cpu_us = json.loads(child.stdout.readline())
    return rate, cpu_us


def serve(way: Way) -> None:
    """Run as many jobs as each line of stdin says; write jobs per second, and microseconds of processor time per
    job."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        sys.stderr = stack.enter_context((Path(folder) / "worker.log").open("w"))
        settings = Settings(
            home=Path(folder),
            database_url=f"sqlite:///{folder}/jobs.db",
            broker_url=f"spool://localhost{folder}/spool",
            log_format="json" if way.logs else "text",
            log_level="info" if way.logs else "warning",
        )
        configure_logging(settings)
        if way.ratio is not None:
            provider = TracerProvider(sampler=ParentBased(EvenSampler(way.ratio)))
            provider.add_span_processor(BatchSpanProcessor(Dropped()))
            trace.set_tracer_provider(provider)
        job_store(settings)
        runtime = RuntimeThread(settings)
        probes = stack.enter_context(contextlib.closing(Probes(runtime, settings))) if way.metrics else None
        runtime.start()
        stack.callback(runtime.stop)
        for line in sys.stdin:
            jobs = int(line)
            began, cpu_began = time.perf_counter(), time.process_time()
            _run(settings, jobs)
            if probes is not None:
                probes.metrics()
            cpu_us = (time.process_time() - cpu_began) / jobs * 1e6
            print(json.dumps([jobs / (time.perf_counter() - began), cpu_us]), flush=True)


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


if __name__ == "__main__":
    sys.exit(main())
