"""Files are written atomically, and no name escapes the folder."""

import multiprocessing
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backends.tinkex.discovery import dev_server_file, running_dev_server
from backends.tinkex_dev.errors import OperationFailed
from backends.tinkex_dev.storage.records import LoraRecord, SaveKind, StoredCheckpoint
from backends.tinkex_dev.storage.state_folder import StateFolder
from backends.tiny_lm.adapter import Adapter, AdapterShape


def record(run_id: str = "s:train:0", name: str = "a") -> StoredCheckpoint:
    return StoredCheckpoint(
        run_id=run_id,
        kind=SaveKind.TRAINING,
        name=name,
        base_model="tiny-lm",
        lora=LoraRecord(rank=1, seed=0),
        time=datetime(2026, 1, 1, tzinfo=UTC),
        size_bytes=0,
        sha256="",
        state_digest="",
        step=0,
    )


@pytest.mark.parametrize("run_id", ["..", "../../x", "a/b", ".", "model:1"])
def test_no_name_leaves_the_folder(tmp_path: Path, run_id: str):
    """For any run id, its files are inside the state folder and are found again."""
    storage = StateFolder(tmp_path / "inner")

    saved = storage.write_checkpoint(record(run_id), Adapter(AdapterShape(1), 0).state(optimizer=True))

    assert storage.checkpoints() == [saved]
    assert [path.name for path in tmp_path.iterdir()] == ["inner"]


def test_a_changed_byte_is_noticed(tmp_path: Path):
    """The hash is checked when a checkpoint is read."""
    storage = StateFolder(tmp_path)
    saved = storage.write_checkpoint(record(), Adapter(AdapterShape(1), 0).state(optimizer=True))
    [file] = tmp_path.rglob("state.safetensors")
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)

    with pytest.raises(OperationFailed, match="damaged"):
        storage.read_checkpoint(saved)


def test_discovery_wants_a_living_process(tmp_path: Path):
    """The discovery file of a killed server is ignored."""
    process = multiprocessing.get_context("spawn").Process(target=int)
    process.start()
    process.join()
    file = dev_server_file(tmp_path)
    assert running_dev_server(tmp_path) is None

    for pid, expected in ((process.pid, None), (1, "http://x"), ("1", None)):
        file.write_text(f'{{"url": "http://x", "pid": {pid!r}}}'.replace("'", '"'))
        assert running_dev_server(tmp_path) == expected
    file.write_text("not json")
    assert running_dev_server(tmp_path) is None
