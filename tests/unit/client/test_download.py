"""A download appears whole or not at all, and within its bounds."""

import json
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backends.tinkex.client.rest import download as archives
from crucible.adapter_files import CONFIG, WEIGHTS
from crucible.backend import TrainingBackend
from crucible.errors import BackendUnavailable, CrucibleError, InvalidRequest, MalformedAnswer
from crucible.training import RunSpec
from nsai_work.client.checkpoints import download as downloads
from nsai_work.client.checkpoints.download import download
from nsai_work.client.checkpoints.job_model import JobModel
from nsai_work.journal import CheckpointRecord, CheckpointStatus

MIB = 1 << 20


def write_adapter(folder: Path, **changes: Any) -> None:
    """The files of an adapter."""
    config = {"peft_type": "LORA", "r": 4, "base_model_name_or_path": "m", **changes}
    (folder / CONFIG).write_text(json.dumps(config))
    (folder / WEIGHTS).write_bytes(b"weights")


class _Service:
    """A backend whose downloads do what a test says."""

    def __init__(self, write: Callable[[Path], None]) -> None:
        self.write, self.limits = write, list[int]()

    async def download_checkpoint(self, path: str, folder: Path, *, max_bytes: int, report: Any) -> None:
        assert path == "x://r/sampler_weights/a"
        self.limits.append(max_bytes)
        self.write(folder)
        report(7, 7)

    async def __aenter__(self) -> "_Service":
        return self

    async def __aexit__(self, *_: object) -> None:
        return


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Path], None]], _Service]:
    """Let downloads come from a service."""

    def use(write: Callable[[Path], None]) -> _Service:
        service = _Service(write)
        TrainingBackend.register(_Service)
        monkeypatch.setattr(downloads, "load_backend", lambda name: service)
        return service

    return use


MODEL = JobModel(
    "job",
    "x",
    RunSpec(base_model="m"),
    CheckpointRecord(
        name="a",
        step=1,
        generation=1,
        status=CheckpointStatus.COMMITTED,
        path="x://r/weights/a",
        sampler_path="x://r/sampler_weights/a",
    ),
)


def test_a_download_has_its_name_only_once_it_is_whole(tmp_path: Path, serve: Any) -> None:
    """While it runs, the name is free and the files are beside it."""

    def write(folder: Path) -> None:
        assert folder.parent == tmp_path
        assert not (tmp_path / "model").exists()
        write_adapter(folder)

    service, seen = serve(write), []
    done = download(MODEL, tmp_path / "model", max_bytes=MIB, report=lambda done, total: seen.append((done, total)))

    assert [path.name for path in tmp_path.iterdir() if path.name != "home"] == ["model"]
    assert set(done.files) == {CONFIG, WEIGHTS}
    assert (seen, service.limits) == ([(7, 7)], [MIB])


def _link(folder: Path) -> None:
    write_adapter(folder)
    (folder / WEIGHTS).unlink()
    (folder / WEIGHTS).symlink_to("/etc/hostname")


def _raise(folder: Path) -> None:
    write_adapter(folder)
    raise BackendUnavailable("the connection broke")


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda folder: None, MalformedAnswer),
        (lambda folder: (folder / CONFIG).write_text("{}"), MalformedAnswer),
        (lambda folder: write_adapter(folder, peft_type="IA3"), MalformedAnswer),
        (lambda folder: write_adapter(folder, r="four"), MalformedAnswer),
        (_link, MalformedAnswer),
        (_raise, BackendUnavailable),
        (lambda folder: (write_adapter(folder), (folder.parent / "model").mkdir()), InvalidRequest),
        (lambda folder: (write_adapter(folder), (folder.parent / "model").write_text("")), InvalidRequest),
    ],
    ids=["nothing", "no weights", "another kind", "no rank", "a link", "broken off", "folder came", "file came"],
)
def test_after_an_error_there_is_no_new_folder(
    tmp_path: Path, serve: Any, write: Callable[[Path], None], error: type[CrucibleError]
) -> None:
    """Nor anything beside it; what has come to exist meanwhile stays as it is."""
    serve(write)
    with pytest.raises(error):
        download(MODEL, tmp_path / "model", max_bytes=MIB)

    assert not list(tmp_path.glob(".model*"))
    target = tmp_path / "model"
    assert not target.is_dir() or not list(target.iterdir())


def test_a_full_disk_is_known_before(tmp_path: Path, serve: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the size of the checkpoint, if the journal has it; else what is free bounds the download."""
    usage = SimpleNamespace(free=downloads.SPARE_BYTES + 2000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    service = serve(write_adapter)
    download(MODEL, tmp_path / "model", max_bytes=MIB)
    assert service.limits == [1000]
    sized = JobModel("job", "x", MODEL.spec, MODEL.checkpoint.model_copy(update={"size_bytes": 1001}))
    with pytest.raises(InvalidRequest, match="not enough space"):
        download(sized, tmp_path / "other", max_bytes=MIB)


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_an_archive_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: Any) -> None:
    """In the sum of its files, however well they are compressed, and in their number."""
    (tmp_path / "zeros").write_bytes(bytes(100_000))
    with tarfile.open(tmp_path / "a.tar", mode) as tar:
        for number in range(3):
            tar.add(tmp_path / "zeros", arcname=str(number))

    with pytest.raises(InvalidRequest, match="max_bytes"):
        archives.unpack_archive(tmp_path / "a.tar", tmp_path / "out", max_bytes=299_999)
    assert not list((tmp_path / "out").iterdir())
    assert len(archives.unpack_archive(tmp_path / "a.tar", tmp_path / "out", max_bytes=300_000)) == 3
    monkeypatch.setattr(archives, "MAX_MEMBERS", 2)
    with pytest.raises(MalformedAnswer, match="more than 2 members"):
        archives.unpack_archive(tmp_path / "a.tar", tmp_path / "more")
