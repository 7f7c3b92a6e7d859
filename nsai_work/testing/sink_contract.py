"""The contract test suite of sinks: what each of them must do, whatever it writes to."""

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Final

import pytest

from crucible.errors import CrucibleError
from nsai_work.journal import ResumeMode
from nsai_work.sinks.contract import Point, Sink, SinkProgress, SinkRun, SinkSegment

_PROCESS_TIMEOUT_S: Final = 120
_FIRST, _SECOND = SinkSegment(1, 0, ResumeMode.FRESH), SinkSegment(2, 2, ResumeMode.COLD)


class SinkContract:
    """The suite. Subclass it with ``make``, and with ``losses`` if what was written can be read back."""

    def make(self, folder: Path) -> Sink:
        """Return a new sink, not yet opened, which writes into the folder."""
        raise NotImplementedError("define make")

    def losses(self, folder: Path, job_id: str, segment: SinkSegment) -> list[tuple[int, float]] | None:
        """Return the steps of a job's segment with their losses, as written; None if nothing reads them."""
        del folder, job_id, segment
        return None

    def test_each_segment_has_its_points(self, tmp_path: Path) -> None:
        """In order and apart from those of the segment before, also if a new owner opens the sink again."""
        run = SinkRun("job-1", "kitchen", {"batch_size": 4}, tmp_path / "metrics")
        self._write(tmp_path, run, _FIRST, [Point(1, False, {"loss": 4.0}), Point(2, False, {"loss": 3.0})])
        had = self._write(
            tmp_path, run, _FIRST, [Point(3, False, {"loss": 2.0}), Point(3, True, {"eval.loss": 9.0})]
        )
        assert had.step in (0, 2)
        self._write(tmp_path, run, _SECOND, [Point(3, False, {"loss": 2.5})])

        first, second = (self.losses(tmp_path, "job-1", segment) for segment in (_FIRST, _SECOND))
        if first is not None:
            assert first == [(1, 4.0), (2, 3.0), (3, 2.0)], first
            assert second == [(3, 2.5)], second

    def test_jobs_do_not_mix(self, tmp_path: Path) -> None:
        """Two jobs write at the same time."""
        runs = [SinkRun(f"job-{number}", None, {}, tmp_path / "metrics") for number in (1, 2)]
        sinks = [self.make(tmp_path) for _ in runs]
        for sink, run in zip(sinks, runs, strict=True):
            sink.open(run, _FIRST)
        for step in (1, 2):
            for number, sink in enumerate(sinks):
                sink.write([Point(step, False, {"loss": step + number / 2})])
        for sink in sinks:
            sink.close()

        for number, run in enumerate(runs):
            found = self.losses(tmp_path, run.job_id, _FIRST)
            assert found in (None, [(1, 1 + number / 2), (2, 2 + number / 2)])

    def test_what_was_written_outlives_its_process(self, tmp_path: Path) -> None:
        """It can be read within ``keeps_after_s``, and after the process was killed then."""
        expected = [(1, 4.0), (2, 3.0)]
        context = multiprocessing.get_context("spawn")
        has_written = context.Event()
        writer = context.Process(target=self._write_and_wait, args=(tmp_path, has_written))
        writer.start()
        try:
            assert has_written.wait(_PROCESS_TIMEOUT_S)
            deadline = time.monotonic() + self.make(tmp_path).keeps_after_s
            while (found := self._found(tmp_path)) not in (None, expected) and time.monotonic() < deadline:
                time.sleep(0.05)
        finally:
            writer.kill()
            writer.join(_PROCESS_TIMEOUT_S)
        assert found in (None, expected)
        assert self._found(tmp_path) in (None, expected)

    def _found(self, folder: Path) -> list[tuple[int, float]] | None:
        try:
            return self.losses(folder, "job-1", _FIRST)
        except Exception:
            # what is not there yet may be unreadable
            return []

    def _write_and_wait(self, folder: Path, has_written: Event) -> None:
        sink = self.make(folder)
        sink.open(SinkRun("job-1", None, {}, folder / "metrics"), _FIRST)
        sink.write([Point(1, False, {"loss": 4.0}), Point(2, False, {"loss": 3.0})])
        has_written.set()
        time.sleep(_PROCESS_TIMEOUT_S)

    def test_an_unknown_setting_is_refused(self, tmp_path: Path) -> None:
        """By the constructor, which is called at submit."""
        with pytest.raises(CrucibleError, match="no_such_setting"):
            type(self.make(tmp_path))({"no_such_setting": 1})

    def _write(self, folder: Path, run: SinkRun, segment: SinkSegment, points: list[Point]) -> SinkProgress:
        sink = self.make(folder)
        had = sink.open(run, segment)
        sink.write(points)
        sink.close()
        sink.close()
        return had
