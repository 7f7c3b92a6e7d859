"""Measures what telemetry costs: throughput and processor time of dispatch with it on and off, in one process.

    python benchmarks/telemetry.py [--seconds 300] [--jobs 250] [--ways all metrics ...]

The process submits no-op jobs to a store of its own (SQLite) and runs them on a worker in it, so that all of the
time is ours. Short rounds alternate: off, on, on, off. Four of them are a pair, which is compared with itself
alone, so that a machine that becomes slower or faster is no telemetry. The median of many pairs is what counts;
beside it is the range that has the true median with a probability of 95 %. Processor time is that of all threads of
the process. Other programs lengthen it too, by what they take from the caches: the last column compares the rounds
that they disturbed least, the best tenth of each.

``metrics``: a scrape after each round is timed apart, and counts as one in 15 seconds. ``logs``: JSON at level
info, to a file. ``traces 0.1``: an OpenTelemetry SDK that samples this share of the submissions, evenly; its
exporter drops the spans, all within the round. ``all``: metrics, logs, and traces at the ratio that
docs/howto/observe.md advises; it has half of the time. ``nothing`` is on as little as off is: what it shows is the
noise.
"""

import argparse
import contextlib
import gc
import logging
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from own_processes import run_main

from nsai_work import Job, Settings, submit_many
from nsai_work.client.connections import job_store
from nsai_work.job import Priority
from nsai_work.store.records import WakeUp
from nsai_work.telemetry.job_events import JobEvent, add_hook
from nsai_work.telemetry.logs import configure_logging
from nsai_work.worker.probes.answers import Probes
from nsai_work.worker.runtime_thread import RuntimeThread

ADVISED_RATIO: Final = 0.01


@dataclass(frozen=True, slots=True)
class Way:
    """What of telemetry is on."""

    metrics: bool = False
    logs: bool = False
    ratio: float | None = None


OFF: Final = Way()
WAYS: Final = {
    "all": Way(metrics=True, logs=True, ratio=ADVISED_RATIO),
    "metrics": Way(metrics=True),
    "logs": Way(logs=True),
    "traces 1.0": Way(ratio=1.0),
    "traces 0.1": Way(ratio=0.1),
    "traces 0.01": Way(ratio=0.01),
    "traces 0": Way(ratio=0.0),
    "nothing": OFF,
}
BATCH: Final = 50
WARM_UP: Final = 1_000
SCRAPED_EVERY_S: Final = 15.0


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


@dataclass(frozen=True, slots=True)
class Round:
    """The seconds and the processor seconds that a number of jobs took."""

    wall_s: float
    cpu_s: float


@dataclass(frozen=True, slots=True)
class Pair:
    """Rounds that follow each other, without telemetry and with it."""

    off: tuple[Round, Round]
    on: tuple[Round, Round]

    @property
    def rate(self) -> float:
        """The throughput with telemetry, of that without."""
        return sum(each.wall_s for each in self.off) / sum(each.wall_s for each in self.on)

    @property
    def cpu(self) -> float:
        """The processor time with telemetry, of that without."""
        return sum(each.cpu_s for each in self.on) / sum(each.cpu_s for each in self.off)


@dataclass(slots=True)
class Switch:
    """A worker of this process, whose telemetry can be switched between rounds."""

    settings: Settings
    runtime: RuntimeThread
    jobs: int
    log: Any
    _logging: dict[bool, tuple[list[logging.Handler], int]] = field(default_factory=dict)
    _providers: dict[float, TracerProvider] = field(default_factory=dict)

    def round(self, way: Way) -> Round:
        """Run the jobs, with the telemetry of a way."""
        self._switch_logging(way.logs)
        provider = self._switch_traces(way.ratio)
        with contextlib.ExitStack() as stack:
            if way.metrics:
                probes = stack.enter_context(contextlib.closing(Probes(self.runtime, self.settings)))
                # the first scrape imports and connects
                probes.metrics()
            gc.collect()
            began, cpu_began = time.perf_counter(), time.process_time()
            run(self.settings, self.runtime, self.jobs)
            if provider is not None:
                provider.force_flush()
            took = Round(time.perf_counter() - began, time.process_time() - cpu_began)
            if way.metrics:
                began, cpu_began = time.perf_counter(), time.process_time()
                probes.metrics()
                scraped = Round(time.perf_counter() - began, time.process_time() - cpu_began)
                share = took.wall_s / SCRAPED_EVERY_S
                took = Round(took.wall_s + scraped.wall_s * share, took.cpu_s + scraped.cpu_s * share)
            return took

    def pair(self, way: Way) -> "Pair":
        """Run two rounds without telemetry around two with it."""
        off, on, again, off_again = (self.round(each) for each in (OFF, way, way, OFF))
        return Pair((off, off_again), (on, again))

    def _switch_logging(self, on: bool) -> None:
        if on not in self._logging:
            logging.root.handlers.clear()
            form = {"log_format": "json" if on else "text", "log_level": "info" if on else "warning"}
            with contextlib.redirect_stderr(self.log):
                configure_logging(self.settings.model_copy(update=form))
            self._logging[on] = (logging.root.handlers[:], logging.root.level)
        logging.root.handlers[:], level = self._logging[on]
        logging.root.setLevel(level)

    def _switch_traces(self, ratio: float | None) -> TracerProvider | None:
        provider = None
        if ratio is not None:
            if ratio not in self._providers:
                made = TracerProvider(sampler=ParentBased(EvenSampler(ratio)))
                made.add_span_processor(BatchSpanProcessor(Dropped()))
                self._providers[ratio] = made
            provider = self._providers[ratio]
        # the API sets a provider once in a process: this is what its own tests do
        setattr(trace, "_TRACER_PROVIDER", provider)  # noqa: B010
        return provider


def main() -> int:
    """Measure all ways in turns, and print the ratios."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--jobs", type=int, default=250, help="in each round")
    parser.add_argument("--seconds", type=float, default=300.0, help="after which no pair begins")
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=list(WAYS))
    options = parser.parse_args()
    found: dict[str, list[Pair]] = {way: [] for way in options.ways}
    turns = [way for other in options.ways[1:] or options.ways for way in dict.fromkeys((options.ways[0], other))]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, contextlib.ExitStack() as stack:
        log = stack.enter_context((Path(folder) / "worker.log").open("w"))
        switch = stack.enter_context(serving(Path(folder), options.jobs, log))
        deadline = time.perf_counter() + options.seconds
        while time.perf_counter() < deadline:
            for way in turns:
                if time.perf_counter() < deadline:
                    found[way].append(switch.pair(WAYS[way]))
    heads = ("jobs/s, on to off", "processor time, on to off", "least disturbed")
    print(f"{'':<11} {heads[0]:<26} {heads[1]:<26} {heads[2]}")
    for way, pairs in found.items():
        if pairs:
            rate, cpu = shown([pair.rate for pair in pairs]), shown([pair.cpu for pair in pairs])
            on, off = (
                best([each for pair in pairs for each in pair.on]),
                best([each for pairs in found.values() for pair in pairs for each in pair.off]),
            )
            us = on / options.jobs * 1e6
            print(f"{way:<11} {rate:<26} {cpu:<26} x{on / off:.3f} ({us:.0f} us a job)  {len(pairs)} pairs")
    return 0


def best(rounds: list[Round]) -> float:
    """The processor seconds of a round that is slower than a tenth of them."""
    return sorted(each.cpu_s for each in rounds)[len(rounds) // 10]


def shown(ratios: list[float]) -> str:
    """The median of ratios, and the range that has the true one with a probability of 95 %."""
    ordered = sorted(ratios)
    number = len(ordered)
    outside = max(int(number / 2 - 0.98 * number**0.5), 0)
    low, high = ordered[outside], ordered[number - 1 - outside]
    return f"x{statistics.median(ordered):.3f} ({low:.3f} to {high:.3f})"


@contextlib.contextmanager
def serving(folder: Path, jobs: int, log: Any) -> Iterator[Switch]:
    """A worker over a store in a folder, warmed up."""
    settings = Settings(
        home=folder, database_url=f"sqlite:///{folder}/jobs.db", broker_url=f"spool://localhost{folder}/spool"
    )
    job_store(settings)
    runtime = RuntimeThread(settings)
    runtime.start()
    try:
        run(settings, runtime, WARM_UP)
        yield Switch(settings, runtime, jobs, log)
    finally:
        runtime.stop()


def run(settings: Settings, runtime: RuntimeThread, jobs: int) -> None:
    """Submit jobs, and wait until all have ended."""
    ended = threading.Semaphore(0)

    def on_event(event: JobEvent) -> None:
        if event.name == "job.succeeded":
            ended.release()

    remove = add_hook(on_event)
    for _ in range(0, jobs, BATCH):
        batch = [Job(kind="tool_call", backend="fake", payload={"command": "noop"}) for _ in range(BATCH)]
        # as the consumer of a broker does: without one, a worker finds jobs by polling alone
        (first, *_) = submit_many(batch, settings)
        runtime.wake(WakeUp(job_id=first.id, fence=0, priority=Priority.BATCH))
    for _ in range(jobs):
        if not ended.acquire(timeout=120):
            raise TimeoutError("the jobs do not end")
    remove()


if __name__ == "__main__":
    run_main(main)
