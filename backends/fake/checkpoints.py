"""Checkpoints of the scripted backend: ``arrays.npz`` in a folder each."""

import io
from pathlib import Path
from typing import Final
from zipfile import BadZipFile

import numpy as np

from backends.fake.engine import FakeEngine
from backends.fake.model import Model
from backends.local.checkpoints import CheckpointInfo, CheckpointStore

_FILE: Final = "arrays.npz"


class FakeCheckpoints(CheckpointStore[FakeEngine]):
    """All of them under one folder."""

    def _write(self, engine: FakeEngine, folder: Path, *, optimizer: bool) -> None:
        np.savez(folder / _FILE, **engine.model.state(optimizer=optimizer))  # type: ignore[arg-type]

    def _read(self, folder: Path, info: CheckpointInfo, *, optimizer: bool) -> FakeEngine:
        try:
            with np.load(io.BytesIO((folder / _FILE).read_bytes()), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
        except (BadZipFile, EOFError) as exc:
            raise ValueError(str(exc)) from exc
        model = Model.new(info.spec.base_model, info.spec.lora)
        model.load(arrays, optimizer=optimizer)
        return FakeEngine(model, info.spec)
