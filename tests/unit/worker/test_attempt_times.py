"""The times of attempts: counted as Prometheus' own client would."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest

from nsai_work.telemetry.job_events import JobEvent
from nsai_work.worker.probes.attempt_times import QUEUE_BUCKETS, RUN_BUCKETS, AttemptTimes

SECONDS = st.one_of(
    st.sampled_from([*QUEUE_BUCKETS, *RUN_BUCKETS]), st.floats(0, 1e6, allow_nan=False), st.integers(0, 10)
)


@given(st.lists(st.tuples(st.sampled_from(["claimed", "failed"]), st.sampled_from(["a", "b"]), SECONDS)))
def test_histograms_are_as_those_of_the_client(happened: list[tuple[str, str, float]]) -> None:
    """Of any times, also at the bounds of buckets; the end of an attempt has its time in the queue too."""
    registry = CollectorRegistry()
    queued = Histogram(
        "nsai_job_queue_seconds",
        "Time from when a job was queued to its claim, by this worker's clock.",
        ("kind", "backend"),
        buckets=QUEUE_BUCKETS,
        registry=registry,
    )
    ran = Histogram(
        "nsai_job_run_seconds",
        "Time from a claim to the end of the attempt.",
        ("kind", "backend"),
        buckets=RUN_BUCKETS,
        registry=registry,
    )
    times = AttemptTimes()
    for name, backend, seconds in happened:
        details: dict[str, Any] = {"queued_s": seconds} if name == "claimed" else {"queued_s": 1, "ran_s": seconds}
        times.on_event(JobEvent(f"job.{name}", "id", "tool_call", backend, 1, 1, details))
        (queued if name == "claimed" else ran).labels("tool_call", backend).observe(seconds)

    *durations, outcomes = times.families()
    ours = CollectorRegistry()
    ours.register(_Families(durations))
    expected = [line for line in generate_latest(registry).splitlines() if b"_created" not in line]
    assert generate_latest(ours).splitlines() == expected
    counted = {sample.labels["outcome"]: sample.value for sample in outcomes.samples}
    assert counted["failed"] == sum(name == "failed" for name, _, _ in happened)
    assert counted["succeeded"] == 0


class _Families:
    """A collector of metrics that are there."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> list[Any]:
        """The metrics."""
        return self._families
