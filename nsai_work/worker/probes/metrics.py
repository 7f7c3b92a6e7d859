"""The metrics of a worker, in the text format of Prometheus. Needs prometheus_client, of the extra ``metrics``.

Those of the store are the same from each worker. The others are those of this process: they begin at 0, and add up
over workers.
"""

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from shutil import disk_usage
from typing import TYPE_CHECKING, Any, Final

from crucible.errors import CrucibleError
from crucible.runtime.waits import WaitCause
from nsai_work.presentation.store_metrics import StoreFigures, gauge, read_figures, store_families
from nsai_work.store import Store
from nsai_work.telemetry.job_events import add_hook, alert_counts, training_counts, wait_counts
from nsai_work.worker.probes.attempt_times import AttemptTimes
from nsai_work.worker.probes.shared_check import SharedCheck
from nsai_work.worker.runtime_thread import RuntimeThread

if TYPE_CHECKING:
    from prometheus_client.core import Metric

MAX_AGE_S: Final = 1.0
"""The age up to which the figures of the store are used again: a reason is known within five seconds with it."""
MAX_SHARE: Final = 0.1
"""The share of the time in which they may be read: all jobs are counted, which takes seconds with a million of them
in an SQLite file."""


class WorkerMetrics:
    """Collects the metrics of a worker from its creation on."""

    def __init__(self, runtime: RuntimeThread, store: Store, home: Path, *, patience_s: float) -> None:
        from prometheus_client import CollectorRegistry

        self._runtime = runtime
        self._home = home
        read = partial(store.database.read, read_figures)
        self._figures = SharedCheck(read, max_age_s=MAX_AGE_S, patience_s=patience_s, max_share=MAX_SHARE)
        self._counted_before = training_counts.all() | alert_counts.all()
        self._registry = CollectorRegistry()
        self._attempts = AttemptTimes()
        self._registry.register(_Collector(self))
        self._remove_hook = add_hook(self._attempts.on_event)

    def close(self) -> None:
        """Stop collecting."""
        self._remove_hook()

    def text(self) -> tuple[str, str]:
        """Return the metrics as text, with its content type."""
        from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest

        return generate_latest(self._registry).decode(), CONTENT_TYPE_LATEST

    def families(self) -> "Iterator[Metric]":
        """The metrics that are computed when they are asked for."""
        lag_s = self._runtime.loop_lag_s
        yield gauge("nsai_loop_lag_seconds", "Lateness of the loop.", [((), lag_s)])
        yield from self._attempts.families()
        counts = training_counts.all() | alert_counts.all()
        since = {key: number - self._counted_before.get(key, 0) for key, number in counts.items()}
        kinds = {kind: since.get(("steps", kind), 0) for kind in ("new", "replayed", "superseded")}
        steps = "Optimizer steps recorded here: new, replayed (recorded before), superseded (to be repeated)."
        yield _counter("nsai_training_steps", steps, "kind", kinds)
        resumes = {
            how: since.get(("resumes", how), 0) for how in ("warm", "restored", "restarted", "exact", "cold")
        }
        yield _counter(
            "nsai_takeovers",
            "Resumes of training runs: warm, restored or restarted; of the restored, proven exact or cold.",
            "resume",
            resumes,
        )
        tries = {outcome: since.get(("alerts", outcome), 0) for outcome in ("sent", "delayed", "given_up")}
        yield _counter("nsai_alerts", "Alerts about jobs that this worker tried to send.", "outcome", tries)
        free = "Free share of the disk of this worker's home."
        yield gauge("nsai_disk_free_ratio", free, [((), ratio) for ratio in _free_ratios(self._home)])
        waiting = wait_counts.all()
        yield gauge(
            "nsai_attempts_waiting",
            "Attempts of this worker that wait, by what for.",
            [((str(cause),), waiting.get(("attempts", cause), 0)) for cause in WaitCause],
            ("cause",),
        )
        yield from store_families(self._read_store())

    def _read_store(self) -> StoreFigures | None:
        try:
            return self._figures.result()
        except (CrucibleError, TimeoutError):
            return None


def _free_ratios(folder: Path) -> list[float]:
    """The free share of a folder's disk; nothing if it cannot be found out."""
    try:
        usage = disk_usage(folder)
    except OSError:
        return []
    return [usage.free / usage.total] if usage.total else []


class _Collector:
    """The registry's view of the computed metrics."""

    def __init__(self, metrics: WorkerMetrics) -> None:
        self._metrics = metrics

    def describe(self) -> "Iterable[Metric]":
        # else the registry would collect at once, and query the store, to learn the names
        return []

    def collect(self) -> "Iterable[Metric]":
        return self._metrics.families()


def _counter(name: str, text: str, label: str, values: dict[str, int]) -> "Metric":
    from prometheus_client.core import CounterMetricFamily

    family: Any = CounterMetricFamily(name, text, labels=(label,))
    for key, value in values.items():
        family.add_metric((key,), value)
    metric: Metric = family
    return metric
