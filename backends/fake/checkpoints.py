"""Checkpoints of the fake backend: one safetensors file each."""

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from backends.fake.engine import FakeEngine, adapter_shape
from backends.local.checkpoints import CheckpointInfo, CheckpointStore
from backends.tiny_lm import safetensors
from backends.tiny_lm.adapter import Adapter
from backends.tiny_lm.adapter_files import adapter_files

_FILE: Final = "state.safetensors"


class FakeCheckpoints(CheckpointStore[FakeEngine]):
    """The fake backend's checkpoints in a folder."""

    def _write(self, engine: FakeEngine, folder: Path, *, optimizer: bool) -> None:
        (folder / _FILE).write_bytes(safetensors.pack(engine.adapter.state(optimizer=optimizer)))

    def _adapter_files(self, folder: Path, info: CheckpointInfo) -> Mapping[str, bytes | Path]:
        arrays = safetensors.unpack((folder / _FILE).read_bytes())
        return adapter_files(info.spec.base_model, adapter_shape(info.spec.lora), arrays)

    def _read(self, folder: Path, info: CheckpointInfo, *, optimizer: bool) -> FakeEngine:
        arrays = safetensors.unpack((folder / _FILE).read_bytes())
        adapter = Adapter.of_state(adapter_shape(info.spec.lora), arrays, optimizer=optimizer)
        return FakeEngine(info.spec, adapter)
