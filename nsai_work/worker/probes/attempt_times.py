"""The durations and outcomes of this worker's attempts: counted as they happen, made into Prometheus' families when
they are read."""

import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING, Final, TypeAlias

from nsai_work.telemetry.job_events import JobEvent

if TYPE_CHECKING:
    from prometheus_client.core import Metric

QUEUE_BUCKETS: Final = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 86_400)
RUN_BUCKETS: Final = (0.1, 1, 5, 15, 60, 300, 900, 3_600, 14_400, 43_200, 86_400)
OUTCOMES: Final = (
    "succeeded", "failed", "canceled", "timeout", "retried", "released", "declined", "lost", "abandoned",
)  # fmt: skip
"""The ends of an attempt of this worker; ``abandoned`` is one whose end could not be recorded."""

Labels: TypeAlias = tuple[str, str]
"""A kind of job and a backend."""


class AttemptTimes:
    """A hook for the events of jobs. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._queued = _Durations(QUEUE_BUCKETS)
        self._ran = _Durations(RUN_BUCKETS)
        self._outcomes: Counter[str] = Counter(dict.fromkeys(OUTCOMES, 0))

    def on_event(self, event: JobEvent) -> None:
        """Count the claim or the end of an attempt."""
        claimed = event.name == "job.claimed"
        seconds = event.details.get("queued_s" if claimed else "ran_s")
        if not isinstance(seconds, int | float):
            return
        with self._lock:
            (self._queued if claimed else self._ran).add((event.kind, event.backend), seconds)
            if not claimed:
                self._outcomes[event.name.removeprefix("job.")] += 1

    def families(self) -> "Iterator[Metric]":
        """The metrics so far."""
        from prometheus_client.core import CounterMetricFamily

        outcomes = CounterMetricFamily("nsai_attempts", "Attempts of this worker that ended.", labels=("outcome",))
        with self._lock:
            queued = self._queued.family(
                "nsai_job_queue_seconds", "Time from when a job was queued to its claim, by this worker's clock."
            )
            ran = self._ran.family("nsai_job_run_seconds", "Time from a claim to the end of the attempt.")
            for outcome, number in self._outcomes.items():
                outcomes.add_metric((outcome,), number)
        yield from (queued, ran, outcomes)


class _Durations:
    """Counts of durations by labels and bucket."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._counts: dict[Labels, list[int]] = {}
        self._sums: dict[Labels, float] = {}

    def add(self, labels: Labels, seconds: float) -> None:
        counts = self._counts.get(labels)
        if counts is None:
            counts = self._counts[labels] = [0] * (len(self._bounds) + 1)
            self._sums[labels] = 0.0
        # a bucket includes its bound
        counts[bisect_left(self._bounds, seconds)] += 1
        self._sums[labels] += seconds

    def family(self, name: str, text: str) -> "Metric":
        from prometheus_client.core import HistogramMetricFamily
        from prometheus_client.utils import floatToGoString

        family = HistogramMetricFamily(name, text, labels=("kind", "backend"))
        bounds = [*map(floatToGoString, self._bounds), "+Inf"]
        for labels, counts in self._counts.items():
            buckets = [*zip(bounds, map(float, accumulate(counts)), strict=True)]
            family.add_metric(labels, buckets, self._sums[labels])
        metric: Metric = family
        return metric
