"""Checkpoints on disk, at ``BACKEND://RUN/weights/NAME``, or without optimizer ``.../sampler_weights/NAME``."""

import os
import re
import shutil
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Generic, TypeVar

from backends.local.engine import Engine
from crucible.errors import InvalidRequest, NotFound
from crucible.training import IntentKind, RunSpec
from crucible.values.record import Record
from nsai_work.files.home import make_private_folder

E = TypeVar("E", bound=Engine)

_PATH: Final = re.compile(r"([a-z]+)://([A-Za-z0-9_-]+)/(weights|sampler_weights)/([A-Za-z0-9._-]+)")
_FOLDERS: Final = {IntentKind.SAVE_STATE: "weights", IntentKind.SAVE_SAMPLER: "sampler_weights"}
_INFO: Final = "state.json"


class CheckpointInfo(Record):
    """A checkpoint's metadata, stored beside the weights."""

    spec: RunSpec
    step: int
    has_optimizer: bool
    saved_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """A parsed checkpoint path. ``scheme`` is the backend's name."""

    scheme: str
    run_id: str
    folder: str
    name: str

    @classmethod
    def parse(cls, text: str, scheme: str) -> "CheckpointPath":
        """Parse a path. Raises InvalidRequest for anything but a path of that backend."""
        match = _PATH.fullmatch(text)
        if match is None or match[1] != scheme or match[4] in (".", ".."):
            raise InvalidRequest.of(
                "path",
                text,
                f"allowed are {scheme}://RUN/weights/NAME and {scheme}://RUN/sampler_weights/NAME",
                backend=scheme,
            )
        return cls(match[1], match[2], match[3], match[4])

    @classmethod
    def of_save(cls, scheme: str, run_id: str, kind: IntentKind, name: str) -> "CheckpointPath":
        """The path of a save. Raises InvalidRequest for a name that is no file name."""
        return cls.parse(f"{scheme}://{run_id}/{_FOLDERS[kind]}/{name}", scheme)

    @property
    def has_optimizer(self) -> bool:
        """Training can resume from it."""
        return self.folder == "weights"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.run_id}/{self.folder}/{self.name}"


class CheckpointStore(ABC, Generic[E]):
    """The checkpoints of one backend, each a folder that is created atomically.

    ``now`` returns seconds since 1970-01-01 UTC.
    """

    def __init__(self, scheme: str, home: Path, now: Callable[[], float] = time.time) -> None:
        self.scheme = scheme
        self._home = home
        self._now = now

    @abstractmethod
    def _write(self, engine: E, folder: Path, *, optimizer: bool) -> None:
        """Write the engine's state into an empty folder."""

    @abstractmethod
    def _read(self, folder: Path, info: CheckpointInfo, *, optimizer: bool) -> E:
        """Build an engine from the files of ``_write``. Raises OSError, ValueError or KeyError for damaged ones."""

    @abstractmethod
    def _adapter_files(self, folder: Path, info: CheckpointInfo) -> Mapping[str, bytes | Path]:
        """The files of a checkpoint's adapter as PEFT loads them, by their names: contents, or files to copy.
        Raises as ``_read``."""

    def export(
        self, path: CheckpointPath, target: Path, *, max_bytes: int, report: Callable[[int, int | None], None]
    ) -> None:
        """Write the adapter of a checkpoint into a folder, as ``TrainingBackend.download_checkpoint``."""
        info = self.info(path)
        try:
            files = self._adapter_files(self.folder_of(path), info)
            sizes = {name: _size(file) for name, file in files.items()}
        except (OSError, ValueError, KeyError) as exc:
            raise NotFound(f"checkpoint {path} cannot be read: {exc}", backend=self.scheme) from exc
        total = sum(sizes.values())
        if total > max_bytes:
            reason = f"the checkpoint has {total} bytes"
            raise InvalidRequest.of("max_bytes", max_bytes, reason, backend=self.scheme)
        done = 0
        for name, file in files.items():
            try:
                if isinstance(file, Path):
                    shutil.copyfile(file, target / name)
                else:
                    (target / name).write_bytes(file)
            except OSError as exc:
                reason = f"it cannot be written: {exc.strerror}"
                raise InvalidRequest.of("folder", str(target / name), reason, backend=self.scheme) from exc
            done += sizes[name]
            report(done, total)

    def save(self, path: CheckpointPath, engine: E, *, step: int, ttl_s: int | None) -> None:
        """Save the engine's state. Raises OSError if the name is taken."""
        info = CheckpointInfo(
            spec=engine.spec,
            step=step,
            has_optimizer=path.has_optimizer,
            saved_at=self._now(),
            expires_at=None if ttl_s is None else self._now() + ttl_s,
        )
        target = self.folder_of(path)
        make_private_folder(target.parent)
        draft = Path(tempfile.mkdtemp(dir=target.parent, suffix=".part"))
        try:
            self._write(engine, draft, optimizer=path.has_optimizer)
            (draft / _INFO).write_text(info.model_dump_json())
            for file in draft.iterdir():
                file.chmod(0o600)
                _sync(file)
            draft.rename(target)
        except BaseException:
            shutil.rmtree(draft, ignore_errors=True)
            raise

    def info(self, path: CheckpointPath) -> CheckpointInfo:
        """Read a checkpoint's metadata. Raises NotFound if it is missing, expired or unreadable."""
        try:
            info = CheckpointInfo.model_validate_json((self.folder_of(path) / _INFO).read_text())
        except FileNotFoundError:
            raise NotFound(f"checkpoint {path} does not exist", backend=self.scheme) from None
        except (OSError, ValueError) as exc:
            raise NotFound(f"checkpoint {path} cannot be read: {exc}", backend=self.scheme) from exc
        if info.expires_at is not None and info.expires_at <= self._now():
            raise NotFound(f"checkpoint {path} has expired", backend=self.scheme)
        return info

    def load(self, path: CheckpointPath, *, optimizer: bool) -> tuple[E, CheckpointInfo]:
        """Load an engine in the state of a checkpoint. Raises NotFound as ``info``."""
        info = self.info(path)
        try:
            engine = self._read(self.folder_of(path), info, optimizer=optimizer and info.has_optimizer)
        except (OSError, ValueError, KeyError, RuntimeError) as exc:
            raise NotFound(f"checkpoint {path} cannot be read: {exc}", backend=self.scheme) from exc
        return engine, info

    def of_run(self, run_id: str) -> tuple[tuple[CheckpointPath, CheckpointInfo], ...]:
        """A run's readable training checkpoints, newest first."""
        readable = []
        for file in (self._home / run_id / "weights").glob(f"*/{_INFO}"):
            path = CheckpointPath(self.scheme, run_id, "weights", file.parent.name)
            try:
                readable.append((path, self.info(path)))
            except NotFound:
                continue
        return tuple(sorted(readable, key=lambda item: (item[1].step, item[1].saved_at), reverse=True))

    def keep(self, path: CheckpointPath) -> None:
        """Remove a checkpoint's expiry. Raises NotFound as ``info``."""
        info = self.info(path)
        if info.expires_at is None:
            return
        folder, permanent = self.folder_of(path), info.model_copy(update={"expires_at": None})
        try:
            with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".part", delete=False) as draft:
                draft.write(permanent.model_dump_json())
            _sync(Path(draft.name))
            Path(draft.name).replace(folder / _INFO)
        except FileNotFoundError:
            raise NotFound(f"checkpoint {path} was deleted meanwhile", backend=self.scheme) from None

    def delete(self, path: CheckpointPath) -> None:
        """Delete a checkpoint, if it exists."""
        folder = self.folder_of(path)
        renamed = folder.with_name(f"{folder.name}.{os.getpid()}.gone")
        try:
            folder.rename(renamed)
        except FileNotFoundError:
            return
        shutil.rmtree(renamed, ignore_errors=True)

    def size_bytes(self, path: CheckpointPath) -> int:
        """The total size of a checkpoint's files; 0 without any."""
        return sum(file.stat().st_size for file in self.folder_of(path).glob("*"))

    def folder_of(self, path: CheckpointPath) -> Path:
        """The folder of a checkpoint's files."""
        return self._home / path.run_id / path.folder / path.name


def _sync(file: Path) -> None:
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


def _size(file: bytes | Path) -> int:
    return file.stat().st_size if isinstance(file, Path) else len(file)
