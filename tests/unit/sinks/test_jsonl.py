"""The file of JSON lines: each line once, whatever a worker that died left."""

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crucible.errors import BackendError, InvalidRequest
from nsai_work.journal import ResumeMode
from nsai_work.sinks.contract import Point, SinkProgress, SinkRun, SinkSegment
from nsai_work.sinks.jsonl import JsonlSink
from nsai_work.testing.sink_contract import SinkContract

FIRST = SinkSegment(1, 0, ResumeMode.FRESH)
SECOND = SinkSegment(2, 3, ResumeMode.COLD)


def opened(folder: Path, segment: SinkSegment = FIRST) -> tuple[JsonlSink, SinkProgress]:
    """A sink that is open, and what it had."""
    sink = JsonlSink({})
    return sink, sink.open(SinkRun("job", None, {}, folder), segment)


def points(first: int, last: int) -> list[Point]:
    """The points of some steps; every second one is evaluated."""
    found = []
    for step in range(first, last + 1):
        found.append(Point(step, False, {"loss": step / 2}))
        if step % 2 == 0:
            found.append(Point(step, True, {"eval.loss": step / 4}))
    return found


def lines(folder: Path) -> list[dict[str, object]]:
    """What the file has."""
    return [json.loads(line) for line in (folder / "job.jsonl").read_text().splitlines()]


def test_it_knows_what_it_has(tmp_path: Path) -> None:
    """Of the segment that it is opened for; the second begins with a mark, which is written once."""
    sink, had = opened(tmp_path / "metrics")
    assert had == SinkProgress()
    sink.write(points(1, 5))
    sink.close()
    sink.close()
    sink, had = opened(tmp_path / "metrics")
    sink.close()
    assert had == SinkProgress(5, 4)

    for _ in range(2):
        sink, had = opened(tmp_path / "metrics", SECOND)
        assert had == SinkProgress()
        sink.close()
    sink, _ = opened(tmp_path / "metrics", SECOND)
    sink.write(points(4, 4))
    sink.close()

    sink, had = opened(tmp_path / "metrics", SECOND)
    sink.close()
    assert had == SinkProgress(4, 4)
    found = lines(tmp_path / "metrics")
    assert found[:2] == [
        {"segment": 1, "step": 1, "metrics": {"loss": 0.5}},
        {"segment": 1, "step": 2, "metrics": {"loss": 1.0}},
    ]
    assert found[7:] == [
        {"segment": 2, "from_step": 3, "resume": "cold"},
        {"segment": 2, "step": 4, "metrics": {"loss": 2.0}},
        {"segment": 2, "step": 4, "evaluation": True, "metrics": {"eval.loss": 1.0}},
    ]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 400))
def test_a_line_cut_anywhere_is_written_again(tmp_path: Path, cut: int) -> None:
    """And no whole line is lost or doubled."""
    file = tmp_path / "job.jsonl"
    file.unlink(missing_ok=True)
    sink, _ = opened(tmp_path)
    sink.write(points(1, 8))
    sink.close()
    whole = file.read_bytes()
    file.write_bytes(whole[: max(len(whole) - cut, 0)])

    sink, had = opened(tmp_path)
    sink.write([p for p in points(1, 8) if p.step > (had.evaluated if p.is_evaluation else had.step)])
    sink.close()

    assert file.read_bytes() == whole


def test_a_file_of_something_else_is_not_touched(tmp_path: Path) -> None:
    """The error names it."""
    (tmp_path / "job.jsonl").write_text("mine\n")
    with pytest.raises(BackendError, match=r"job\.jsonl"):
        opened(tmp_path)
    assert (tmp_path / "job.jsonl").read_text() == "mine\n"


def test_a_wrong_setting_is_refused() -> None:
    """By its name."""
    with pytest.raises(InvalidRequest, match="did you mean folder"):
        JsonlSink({"foldr": "x"})


class TestJsonlSink(SinkContract):
    """Every promise of the contract."""

    def make(self, folder: Path) -> JsonlSink:
        return JsonlSink({"folder": str(folder)})

    def losses(self, folder: Path, job_id: str, segment: SinkSegment) -> list[tuple[int, float]]:
        found = [json.loads(line) for line in (folder / f"{job_id}.jsonl").read_text().splitlines()]
        kept = [line for line in found if line["segment"] == segment.number and "loss" in line.get("metrics", {})]
        return [(line["step"], line["metrics"]["loss"]) for line in kept]


@pytest.mark.parametrize("job_id", ["../x", "..", "/x", "a/b", "\U0001f600" * 64])
def test_the_file_is_in_the_folder_whatever_the_id(job_id: str, tmp_path: Path) -> None:
    """A submitter chooses the id; the file of another id is another one."""
    sink = JsonlSink({})
    for each in (job_id, f"{job_id[:-1]}y"):
        sink.open(SinkRun(each, None, {}, tmp_path / "home" / "metrics"), FIRST)
        sink.write(points(1, 1))
        sink.close()

    assert len([*(tmp_path / "home" / "metrics").iterdir()]) == 2
    assert [*tmp_path.iterdir()] == [tmp_path / "home"]
