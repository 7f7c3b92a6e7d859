"""The sinks of other packages, read back by those packages; without a network."""

import contextlib
import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from nsai_work.payloads import SinkSpec
from nsai_work.sinks.contract import Sink, SinkSegment
from nsai_work.sinks.registry import load_sink, require_packages
from nsai_work.testing.sink_contract import SinkContract

pytestmark = pytest.mark.filterwarnings("default")


def name_of(segment: SinkSegment) -> str:
    """The end of the name of a segment's folder or run."""
    return "" if segment.number == 1 else f"segment-{segment.number}"


class TestTensorBoardSink(SinkContract):
    """Read back by TensorBoard's own reader of event files."""

    @pytest.fixture(autouse=True)
    def _installed(self) -> None:
        pytest.importorskip("tensorboard")

    def make(self, folder: Path) -> Sink:
        return load_sink(SinkSpec(sink="tensorboard", settings={"folder": str(folder / "tb")}))

    def losses(self, folder: Path, job_id: str, segment: SinkSegment) -> list[tuple[int, float]]:
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        place = folder / "tb" / job_id
        [found] = [place] if segment.number == 1 else place.glob(f"{name_of(segment)}-after-step-2-cold")
        events = EventAccumulator(str(found))
        events.Reload()
        return [(event.step, event.value) for event in events.Scalars("loss")]


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


class TestWandbSink(SinkContract):
    """Offline, read from wandb's own file of each opening."""

    @pytest.fixture(autouse=True)
    def _installed(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("wandb")
        monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
        monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))

    def make(self, folder: Path) -> Sink:
        settings = {"mode": "offline", "project": "p", "folder": str(folder / "w")}
        return load_sink(SinkSpec(sink="wandb", settings=settings))

    def project(self) -> str:
        """The project of all runs."""
        return "p"

    def losses(self, folder: Path, job_id: str, segment: SinkSegment) -> list[tuple[int, float]]:
        import wandb
        from wandb.proto import wandb_internal_pb2

        wandb.teardown()  # waits for wandb's own process, which writes the end of the files after ``finish``
        found = []
        for file in (folder / "w").rglob("*.wandb"):
            run_id, rows = "", []
            for data in log_records(file.read_bytes()):
                record = wandb_internal_pb2.Record.FromString(data)
                kind = record.WhichOneof("record_type")
                if kind == "run":
                    run_id = record.run.run_id
                    assert record.run.run_group in run_id
                    assert record.run.project == self.project()
                if kind == "history":
                    items = record.history.item
                    row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
                    rows += [(row["step"], row["loss"])] if "loss" in row else []
            found += rows if run_id == f"{job_id}-{segment.number}" else []
        return sorted(found)


class TestWandbSinkOfTheWorker(TestWandbSink):
    """With the settings that W&B reads itself, of the worker's environment, and none of the job."""

    @pytest.fixture(autouse=True)
    def _of_the_worker(self, _installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
        import wandb

        monkeypatch.setenv("WANDB_MODE", "offline")
        monkeypatch.setenv("WANDB_PROJECT", "kitchen")
        wandb.teardown()

    def make(self, folder: Path) -> Sink:
        return load_sink(SinkSpec(sink="wandb", settings={"folder": str(folder / "w")}))

    def project(self) -> str:
        return "kitchen"


class TestTrackioSink(SinkContract):
    """Read from trackio's database."""

    @pytest.fixture(autouse=True)
    def _installed(self, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
        # trackio reads it once, when it is imported: projects keep the tests apart
        monkeypatch.setenv("TRACKIO_DIR", str(tmp_path_factory.getbasetemp() / "trackio"))
        pytest.importorskip("trackio")

    def make(self, folder: Path) -> Sink:
        return load_sink(SinkSpec(sink="trackio", settings={"project": folder.name}))

    def losses(self, folder: Path, job_id: str, segment: SinkSegment) -> list[tuple[int, float]]:
        from trackio.utils import TRACKIO_DIR

        [database] = Path(TRACKIO_DIR).rglob(f"*{folder.name}*.db")
        with contextlib.closing(sqlite3.connect(database)) as connection:
            rows = connection.execute("select run_name, step, metrics from metrics order by id").fetchall()
        name = job_id if segment.number == 1 else f"{job_id}-{name_of(segment)}-cold"
        kept = [(step, json.loads(metrics)) for run_name, step, metrics in rows if run_name == name]
        return [(step, metrics["loss"]) for step, metrics in kept if "loss" in metrics]


@pytest.mark.parametrize("name", ["tensorboard", "trackio", "wandb"])
def test_a_sink_names_the_package_that_it_needs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is not installed."""
    monkeypatch.setattr("importlib.util.find_spec", lambda package: None)
    with pytest.raises(Exception, match=f"not installed here: {name}"):
        require_packages(load_sink(SinkSpec(sink=name)))
