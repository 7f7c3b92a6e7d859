"""The sinks of other packages, read back by those packages; without a network."""

import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from nsai_work.journal import ResumeMode
from nsai_work.payloads import SinkSpec
from nsai_work.sinks.contract import Point, SinkRun, SinkSegment
from nsai_work.sinks.registry import load_sink, require_packages

pytestmark = pytest.mark.filterwarnings("default")

SEGMENTS = [SinkSegment(1, 0, ResumeMode.FRESH), SinkSegment(2, 2, ResumeMode.COLD)]
POINTS = {
    1: [Point(1, False, {"loss": 4.0}), Point(2, False, {"loss": 3.0}), Point(2, True, {"eval.loss": 3.5})],
    2: [Point(3, False, {"loss": 2.5})],
}


def written(tmp_path: Path, name: str, settings: dict[str, Any], *, name_of_run: str | None = "kitchen") -> None:
    """Write two segments, the second after the worker has closed the sink and opened it again."""
    spec = SinkSpec(sink=name, settings=settings)
    for segment in SEGMENTS:
        sink = load_sink(spec)
        require_packages(sink)
        sink.open(SinkRun("job-1", name_of_run, {"batch_size": 4}, tmp_path / "metrics"), segment)
        sink.write(POINTS[segment.number])
        sink.close()
        sink.close()


def test_tensorboard_reads_the_scalars(tmp_path: Path) -> None:
    """Each at its step, a folder for each segment."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(tmp_path, "tensorboard", {"folder": str(tmp_path / "tb")})

    def read(folder: Path, tag: str) -> list[tuple[int, float]]:
        events = EventAccumulator(str(folder))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars(tag)]

    first = tmp_path / "tb" / "job-1"
    assert read(first, "loss") == [(1, 4.0), (2, 3.0)]
    assert read(first, "eval.loss") == [(2, 3.5)]
    assert read(first / "segment-2-after-step-2-cold", "loss") == [(3, 2.5)]


def log_records(content: bytes) -> Iterator[bytes]:
    """The records of wandb's file: after a header of 7 bytes, a log in blocks of 32 KiB, each part of a record with
    its checksum, length and kind (whole, first, middle, last)."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32_768 - place % 32_768 < 7:
            place += 32_768 - place % 32_768
            continue
        length, kind = struct.unpack_from("<HB", content, place + 4)
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""


def test_wandb_keeps_an_offline_run_for_each_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose history has each point, in wandb's own file."""
    pytest.importorskip("wandb")
    from wandb.proto import wandb_internal_pb2

    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    written(tmp_path, "wandb", {"mode": "offline", "project": "p", "folder": str(tmp_path / "w")})

    histories: dict[str, list[dict[str, str]]] = {}
    for file in (tmp_path / "w").rglob("*.wandb"):
        history, run_id = [], ""
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record.FromString(data)
            if record.WhichOneof("record_type") == "run":
                run_id = record.run.run_id
                assert record.run.run_group == "job-1"
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                history.append({item.key or "/".join(item.nested_key): item.value_json for item in items})
        histories[run_id] = history
    assert set(histories) == {"job-1-1", "job-1-2"}
    assert [(row["step"], row.get("loss"), row.get("eval.loss")) for row in histories["job-1-1"]] == [
        ("1", "4", None),
        ("2", "3", None),
        ("2", None, "3.5"),
    ]
    assert [(row["step"], row["loss"]) for row in histories["job-1-2"]] == [("3", "2.5")]


def test_trackio_has_a_run_for_each_segment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In its database."""
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    written(tmp_path, "trackio", {"project": "p"})

    [database] = (tmp_path / "trackio").rglob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("select run_name, step, metrics from metrics order by id").fetchall()
    connection.close()
    assert [(name, step) for name, step, _ in rows] == [
        ("job-1", 1),
        ("job-1", 2),
        ("job-1", 2),
        ("job-1-segment-2-cold", 3),
    ]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_sink_names_the_package_that_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(Exception, match=f"not installed here: {name}"):
        require_packages(load_sink(SinkSpec(sink=name)))
