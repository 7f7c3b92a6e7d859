"""Checkpoints of the scripted backend: one file each, written whole or not at all.

``fake://RUN/weights/NAME`` holds the adapter and the optimizer's state; ``fake://RUN/sampler_weights/NAME`` holds
the adapter alone.
"""

import io
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np
from pydantic import JsonValue, ValidationError

from backends.fake.model import Array, Model
from crucible.errors import InvalidRequest, NotFound
from crucible.record import Record
from crucible.training import IntentKind, LoraSpec

_PATH: Final = re.compile(r"fake://([A-Za-z0-9_-]+)/(weights|sampler_weights)/([A-Za-z0-9._-]+)")
_FOLDERS: Final = {IntentKind.SAVE_STATE: "weights", IntentKind.SAVE_SAMPLER: "sampler_weights"}


class CheckpointInfo(Record):
    """What is written beside the arrays."""

    base_model: str
    lora: LoraSpec
    step: int
    has_optimizer: bool
    saved_at: float
    expires_at: float | None = None


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """A checkpoint's place."""

    run_id: str
    folder: str
    name: str

    @classmethod
    def parse(cls, text: str) -> "CheckpointPath":
        """Raises InvalidRequest for anything but a path of this backend."""
        match = _PATH.fullmatch(text)
        if match is None or match[3] in (".", ".."):
            raise InvalidRequest.of(
                "path",
                text,
                "allowed are fake://RUN/weights/NAME and fake://RUN/sampler_weights/NAME",
                backend="fake",
            )
        return cls(match[1], match[2], match[3])

    @classmethod
    def of_save(cls, run_id: str, kind: IntentKind, name: str) -> "CheckpointPath":
        """The place of a save. Raises InvalidRequest for a name that is no file name."""
        return cls.parse(f"fake://{run_id}/{_FOLDERS[kind]}/{name}")

    def __str__(self) -> str:
        return f"fake://{self.run_id}/{self.folder}/{self.name}"


class CheckpointFolder:
    """All checkpoints under one folder. ``now`` gives seconds since the epoch."""

    def __init__(self, home: Path, now: Callable[[], float] = time.time) -> None:
        self._home = home
        self._now = now

    def save(self, path: CheckpointPath, model: Model, *, step: int, ttl_s: int | None) -> None:
        """Write the model's state."""
        has_optimizer = path.folder == "weights"
        info = CheckpointInfo(
            base_model=model.base_model,
            lora=model.lora,
            step=step,
            has_optimizer=has_optimizer,
            saved_at=self._now(),
            expires_at=None if ttl_s is None else self._now() + ttl_s,
        )
        target = self._file(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=target.parent, suffix=".part", delete=False) as file:
            meta = np.frombuffer(info.model_dump_json().encode(), dtype=np.uint8)
            np.savez(file, info=meta, **model.state(optimizer=has_optimizer))  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        Path(file.name).replace(target)

    def info(self, path: CheckpointPath) -> CheckpointInfo:
        """What a checkpoint is. Raises NotFound when it is missing, expired or unreadable."""
        return self._read(path)[0]

    def model(self, path: CheckpointPath, *, optimizer: bool) -> tuple[Model, CheckpointInfo]:
        """A model in the state of the checkpoint. Raises NotFound as ``info``."""
        info, arrays = self._read(path)
        model = Model.new(info.base_model, info.lora)
        try:
            model.load(arrays, optimizer=optimizer and info.has_optimizer)
        except (KeyError, ValueError) as exc:
            raise NotFound(f"checkpoint {path} is incomplete: {exc}", backend="fake") from exc
        return model, info

    def of_run(self, run_id: str, folder: str = "weights") -> tuple[tuple[CheckpointPath, CheckpointInfo], ...]:
        """A run's readable checkpoints, newest first."""
        found = []
        for file in (self._home / run_id / folder).glob("*.npz"):
            path = CheckpointPath(run_id, folder, file.stem)
            try:
                found.append((path, self.info(path)))
            except NotFound:
                continue
        return tuple(sorted(found, key=lambda item: (item[1].step, item[1].saved_at), reverse=True))

    def delete(self, path: CheckpointPath) -> None:
        """Remove a checkpoint; one that is gone is fine."""
        self._file(path).unlink(missing_ok=True)

    def size_bytes(self, path: CheckpointPath) -> int:
        """The size of the file, 0 when it is gone."""
        file = self._file(path)
        return file.stat().st_size if file.exists() else 0

    def _file(self, path: CheckpointPath) -> Path:
        return self._home / path.run_id / path.folder / f"{path.name}.npz"

    def _read(self, path: CheckpointPath) -> tuple[CheckpointInfo, Mapping[str, Array]]:
        try:
            with np.load(io.BytesIO(self._file(path).read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            meta: JsonValue = json.loads(arrays.pop("info").tobytes())
            info = CheckpointInfo.model_validate(meta)
        except FileNotFoundError:
            raise NotFound(f"checkpoint {path} does not exist", backend="fake") from None
        except (OSError, ValueError, KeyError, EOFError, BadZipFile, ValidationError) as exc:
            raise NotFound(f"checkpoint {path} cannot be read: {exc}", backend="fake") from exc
        if info.expires_at is not None and info.expires_at <= self._now():
            raise NotFound(f"checkpoint {path} has expired", backend="fake")
        return info, arrays
