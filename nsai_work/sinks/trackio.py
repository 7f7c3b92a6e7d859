"""The sink of trackio: a run for each segment of a job, in a local database that ``trackio show`` displays."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import Field, JsonValue

from crucible.values.record import Record
from crucible.values.record_reader import read_record
from crucible.values.scalars import Name
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment


class TrackioSettings(Record):
    """``project`` groups runs. The database is where trackio keeps it (its TRACKIO_DIR)."""

    project: Name = Field(default="nsai-work", min_length=1, max_length=128)


class TrackioSink(Sink):
    """Logs points. A point that a worker logged as it died is logged again at its step, with the same value."""

    requires: ClassVar[tuple[str, ...]] = ("trackio",)
    keeps_after_s: ClassVar[float] = 3.0  # a thread of it stores every half a second what was logged

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self._settings = read_record(TrackioSettings, dict(settings))
        self._run: Any = None

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        import trackio

        marked = "" if segment.number == 1 else f"-segment-{segment.number}-{segment.resume.value}"
        name = f"{run.job_id}{marked}"
        config = {**run.config, "segment": segment.number, "from_step": segment.from_step}
        self._run = trackio.init(
            project=self._settings.project,
            name=name,
            group=run.job_id,
            config=config,
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )
        return SinkProgress()

    def write(self, points: Sequence[Point]) -> None:
        for point in points:
            self._run.log(dict(point.metrics), step=point.step)

    def close(self) -> None:
        run, self._run = self._run, None
        if run is not None:
            run.finish()
