"""Every path that a user gives: what is no regular file is refused at once, and ``~`` means the home directory."""

import asyncio
import importlib
import inspect
import pkgutil
import typing
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

import backends
from backends.tinkex.client.rest.download import download_file, unpack_archive
from backends.tinkex_dev.demo.folder import prepare_folder
from backends.tinkex_dev.errors import StateUnusable
from backends.tinkex_dev.required_key import required_key
from backends.tinkex_dev.storage.lock import locked_folder
from crucible.errors import CallerError
from nsai_work.cli.commands.complete import _image_part
from nsai_work.client.jobfile import load_jobs
from nsai_work.data.dataset import pin_data
from nsai_work.errors import FileUnusable
from nsai_work.files.user_paths import refuse_odd_target
from nsai_work.inference import pin_prompts, refuse_existing
from nsai_work.payloads import DataSource, Inference, TrainingData
from nsai_work.settings import Settings
from tests.odd_files import make_odd_file

KINDS = ("fifo", "directory", "socket", "device", "symlink loop", "dangling symlink")
NAMES = {
    "missing": "missing",
    "under a file": "file/inner",
    "a name that is too long": "n" * 300,
    "a NUL in the name": "a\0b",
    "an unknown user": "~nobody-has-this-name/file",
}
REFUSED = (CallerError, FileUnusable, StateUnusable, ValidationError)


async def _download(target: Path) -> None:
    class Transport:
        async def download(self, _url: str, *, authenticated: bool, on_length: object) -> AsyncIterator[bytes]:
            yield b"data"

    await download_file(typing.cast("Any", Transport()), "http://127.0.0.1/", target, authenticated=False)


READ: dict[str, Callable[[Path], object]] = {
    "job file": load_jobs,
    "training data": lambda path: pin_data(TrainingData(path=str(path))),
    "prompts": lambda path: pin_prompts(DataSource(path=str(path))),
    "image": _image_part,
    "key file": lambda path: required_key(path, on_command_line=False),
    "archive": lambda path: unpack_archive(path, path.parent / "unpacked"),
}
WRITTEN: dict[str, Callable[[Path], object]] = {
    "answers": lambda path: refuse_existing(Inference(input=DataSource(path="p"), output=str(path))),
    "download": lambda path: asyncio.run(_download(path)),
    "record": lambda path: refuse_odd_target("--record", path),
}
FOLDERS: dict[str, Callable[[Path], object]] = {
    "home": lambda path: Settings(home=path).make_home(),
    "dev server's state": lambda path: locked_folder(path).__enter__(),
    "demo's output": prepare_folder,
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", READ)
def test_a_file_to_read_that_is_no_regular_one_is_refused(tmp_path: Path, field: str, kind: str) -> None:
    """Without waiting for a writer, and without reading a device for ever."""
    with make_odd_file(kind, tmp_path / "odd") as odd, pytest.raises(REFUSED) as caught:
        READ[field](odd)
    assert str(odd) in str(caught.value)


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("field", READ)
def test_a_file_to_read_that_cannot_be_opened_is_refused(tmp_path: Path, field: str, name: str) -> None:
    """With an error of our family."""
    (tmp_path / "file").write_text("text")
    with pytest.raises(REFUSED):
        READ[field](Path(name) if name.startswith("~") else tmp_path / name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("field", WRITTEN)
def test_a_file_to_write_that_is_no_regular_one_is_refused(tmp_path: Path, field: str, kind: str) -> None:
    """And is left as it is."""
    with make_odd_file(kind, tmp_path / "odd") as odd:
        before = odd.lstat().st_ino
        with pytest.raises(REFUSED):
            WRITTEN[field](odd)
        assert odd.lstat().st_ino == before


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "directory"])
@pytest.mark.parametrize("field", FOLDERS)
def test_a_folder_that_is_none_is_refused(tmp_path: Path, field: str, kind: str) -> None:
    """By each that makes one."""
    with make_odd_file(kind, tmp_path / "odd") as odd, pytest.raises(REFUSED):
        FOLDERS[field](odd)


@pytest.mark.parametrize("name", ["under a file", "a name that is too long", "a NUL in the name"])
def test_a_download_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    """Before anything is asked of the server; no part of it stays."""
    (tmp_path / "file").write_text("text")
    with pytest.raises(CallerError, match="target"):
        asyncio.run(_download(tmp_path / NAMES[name]))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_download_replaces_a_file(tmp_path: Path) -> None:
    """Complete, and with no other file beside it."""
    target = tmp_path / "archive.tar"
    target.write_bytes(b"old")
    asyncio.run(_download(target))
    assert (target.read_bytes(), list(tmp_path.iterdir())) == (b"data", [target])


def settings_with_paths() -> dict[str, tuple[type[BaseModel], str]]:
    """Every field of a backend's settings that is a path."""
    found: dict[str, tuple[type[BaseModel], str]] = {}
    for package in pkgutil.iter_modules(backends.__path__):
        for name in ("settings", "backend_settings"):
            try:
                module = importlib.import_module(f"backends.{package.name}.{name}")
            except ModuleNotFoundError:
                continue
            for kind in vars(module).values():
                if inspect.isclass(kind) and issubclass(kind, BaseModel) and kind.__module__ == module.__name__:
                    for field, info in kind.model_fields.items():
                        if Path in (info.annotation, *typing.get_args(info.annotation)) or "Path" in str(
                            info.annotation
                        ):
                            found[f"{kind.__name__}.{field}"] = (kind, field)
    return found


PATHS = {**settings_with_paths(), "Settings.home": (Settings, "home")}


def test_the_settings_with_paths_are_found() -> None:
    """So that the next test tests them."""
    assert PATHS.keys() >= {"FakeSettings.home", "PeftSettings.home", "PythonSettings.files", "Settings.home"}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_in_settings_may_begin_with_the_home_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """And a relative one is made absolute: a worker may run in another directory."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    kind, field = PATHS[name]
    for given in ("~/some/where", "some/where", str(tmp_path / "some/where")):
        assert getattr(kind(**{field: given}), field) == tmp_path / "some" / "where"
    with pytest.raises((ValueError, CallerError), match="user that does not exist"):
        kind(**{field: "~nobody-has-this-name/where"})


def test_a_model_of_peft_may_be_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name in the settings, and as a base model."""
    from backends.peft.bases import Bases
    from backends.peft.settings import PeftSettings

    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    bases = Bases(PeftSettings(models={"mine": "~/model"}))
    assert {bases.source(name) for name in ("mine", "~/model")} == {str(tmp_path / "model")}


def test_a_job_file_may_be_in_the_home_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the shell does not expand it after an equals sign."""
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "job.json").write_text('{"kind": "inference", "backend": "fake", "payload": {"prompt": {}}}')
    assert [job.kind for job in load_jobs("~/job.json")] == ["inference"]
