"""The sink of TensorBoard: event files, a folder for each segment of a job."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from pydantic import JsonValue

from crucible.values.record import Record
from crucible.values.record_reader import read_record
from nsai_work.files.home import FolderSetting, file_name, make_private_folder
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment


class TensorBoardSettings(Record):
    """``folder`` is the folder that ``tensorboard --logdir`` is given, by default ``metrics/tensorboard`` in the
    home of the worker."""

    folder: FolderSetting | None = None


class TensorBoardSink(Sink):
    """Writes scalars. A point that a worker wrote as it died is written again at its step, with the same value."""

    requires: ClassVar[tuple[str, ...]] = ("tensorboard",)

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self._settings = read_record(TensorBoardSettings, dict(settings))
        self._writer: Any = None

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        from tensorboard.summary.writer.event_file_writer import EventFileWriter

        folder = (self._settings.folder or run.folder / "tensorboard") / file_name(run.job_id)
        if segment.number > 1:
            folder = folder / f"segment-{segment.number}-after-step-{segment.from_step}-{segment.resume.value}"
        self._writer = EventFileWriter(str(make_private_folder(folder)))
        return SinkProgress()

    def write(self, points: Sequence[Point]) -> None:
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        for point in points:
            values = [Summary.Value(tag=name, simple_value=value) for name, value in point.metrics.items()]
            at = 0.0 if point.recorded_at is None else point.recorded_at.timestamp()
            self._writer.add_event(Event(step=point.step, wall_time=at, summary=Summary(value=values)))
        self._writer.flush()

    def close(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()
