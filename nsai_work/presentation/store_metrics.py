"""The metrics of the store, in Prometheus' families: equal from every process that reads it. They need
prometheus_client, of the extra ``metrics``."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from nsai_work.presentation.json_forms import SCOPES
from nsai_work.store.blobs.rows import stored_bytes
from nsai_work.store.claim.limits import limits_in_use
from nsai_work.store.engine.database import Tx
from nsai_work.store.maintenance.workers import worker_counts
from nsai_work.store.queries.goodput import recent_goodput
from nsai_work.store.queries.queue_state import job_counts, queue_depths
from nsai_work.store.records import JobCount, LimitUse, QueueCount
from nsai_work.store.wait_reasons.kinds import WaitKind, count_waits

if TYPE_CHECKING:
    from prometheus_client.core import Metric


@dataclass(frozen=True, slots=True)
class StoreFigures:
    """The figures of the store at one moment."""

    jobs: list[JobCount]
    depths: list[QueueCount]
    waits: Mapping[WaitKind, int]
    limits: list[LimitUse]
    goodput: float | None
    workers: Mapping[str, int]
    blob_bytes: int


def read_figures(tx: Tx) -> StoreFigures:
    """Read the figures."""
    return StoreFigures(
        jobs=job_counts(tx),
        depths=queue_depths(tx),
        waits=count_waits(tx),
        limits=limits_in_use(tx),
        goodput=recent_goodput(tx),
        workers=worker_counts(tx),
        blob_bytes=stored_bytes(tx),
    )


def store_families(figures: StoreFigures | None) -> "Iterator[Metric]":
    """The metrics of the figures; with None, that the store is away."""
    yield gauge("nsai_store_up", "Whether the job store answers.", [((), int(figures is not None))])
    if figures is None:
        return
    yield gauge(
        "nsai_jobs",
        "Jobs in the store.",
        [((row.status, row.kind, row.backend), row.number) for row in figures.jobs],
        ("state", "kind", "backend"),
    )
    yield gauge(
        "nsai_jobs_waiting",
        "Jobs that wait, by the kind of their reason.",
        [((str(kind),), number) for kind, number in figures.waits.items()],
        ("reason",),
    )
    yield gauge(
        "nsai_job_oldest_age_seconds",
        "How long the oldest ready job has been ready; 0 if there is none.",
        [((str(depth.priority),), depth.oldest_age_s) for depth in figures.depths],
        ("priority",),
    )
    yield gauge(
        "nsai_limit_utilization_ratio",
        "Running jobs as a share of a limit; 1 for a limit of 0.",
        [(_limit_labels(use), _share(use)) for use in figures.limits],
        ("scope", "name", "model"),
    )
    yield gauge(
        "nsai_training_goodput_ratio",
        "Productive share of the wall time of the newest training jobs that succeeded.",
        [] if figures.goodput is None else [((), figures.goodput)],
    )
    yield gauge(
        "nsai_workers",
        "Workers that are registered, alive or absent.",
        [((state,), number) for state, number in figures.workers.items()],
        ("state",),
    )
    yield gauge("nsai_blob_bytes", "Size of the files of jobs in the blob store.", [((), figures.blob_bytes)])


def gauge(
    name: str, text: str, values: Iterable[tuple[tuple[str, ...], float]], labels: tuple[str, ...] = ()
) -> "Metric":
    """A gauge with its values by label values."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(name, text, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _limit_labels(use: LimitUse) -> tuple[str, str, str]:
    return SCOPES[use.limit.scope], use.limit.key, use.limit.model


def _share(use: LimitUse) -> float:
    return use.running / use.limit.max_running if use.limit.max_running else 1.0
