"""The sink of JSON lines: a file for each job, appended to."""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from pydantic import Field, JsonValue, ValidationError

from crucible.errors import BackendError
from crucible.values.record import Record
from crucible.values.record_reader import read_record
from crucible.values.scalars import Count
from nsai_work.files.home import FolderSetting, file_name, make_private_folder
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment

_TAIL_BYTES: Final = 2 << 20


class JsonlSettings(Record):
    """``folder`` is where the file is, by default ``metrics`` in the home of the worker."""

    folder: FolderSetting | None = None


class JsonlLine(Record):
    """A line of the file. ``from_step`` and ``resume`` mark the begin of a segment."""

    segment: Count = Field(ge=1)
    step: Count | None = None
    evaluation: bool = False
    metrics: dict[str, float] = Field(default_factory=dict)
    at: str | None = None
    from_step: Count | None = None
    resume: str | None = None


class JsonlSink(Sink):
    """Writes ``JOB.jsonl``. What it has is read from the file's end, so that no line is ever written twice."""

    def __init__(self, settings: Mapping[str, JsonValue]) -> None:
        self._settings = read_record(JsonlSettings, dict(settings))
        self._file: BinaryIO | None = None
        self._segment = 1

    def open(self, run: SinkRun, segment: SinkSegment) -> SinkProgress:
        path = (self._settings.folder or run.folder) / f"{file_name(run.job_id)}.jsonl"
        make_private_folder(path.parent)
        self._segment = segment.number
        self._file = path.open("ab+")
        try:
            lines = [line for line in _last_lines(self._file, path) if line.segment == segment.number]
        except BackendError:
            self.close()
            raise
        if segment.number > 1 and not lines:
            marked = JsonlLine(segment=segment.number, from_step=segment.from_step, resume=segment.resume.value)
            self._append([marked])
        return SinkProgress(
            max((line.step or 0 for line in lines if not line.evaluation), default=0),
            max((line.step or 0 for line in lines if line.evaluation), default=-1),
        )

    def write(self, points: Sequence[Point]) -> None:
        self._append(
            [
                JsonlLine(
                    segment=self._segment,
                    step=point.step,
                    evaluation=point.is_evaluation,
                    metrics=dict(point.metrics),
                    at=None if point.recorded_at is None else point.recorded_at.isoformat(),
                )
                for point in points
            ]
        )

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _append(self, lines: Sequence[JsonlLine]) -> None:
        assert self._file is not None
        text = "".join(json.dumps(line.model_dump(exclude_defaults=True)) + "\n" for line in lines)
        self._file.write(text.encode())
        self._file.flush()
        os.fsync(self._file.fileno())


def _last_lines(file: BinaryIO, path: Path) -> list[JsonlLine]:
    """Cut a line off that a dead worker left half written, and return the last whole ones: more than a batch."""
    size = file.seek(0, os.SEEK_END)
    start = max(size - _TAIL_BYTES, 0)
    file.seek(start)
    tail = file.read()
    whole, newline, rest = tail.rpartition(b"\n")
    if rest:
        file.truncate(start + len(whole) + len(newline))
    file.seek(0, os.SEEK_END)
    lines = whole.split(b"\n")[1 if start else 0 :]
    try:
        return [JsonlLine.model_validate_json(line) for line in lines if line]
    except ValidationError:
        raise BackendError(f"{path} has a line that is not of this sink; move the file away") from None
