"""The state folder's files: sessions, runs, samplers and checkpoints, each written atomically."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, TypeVar
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from backends.tinkex_dev.errors import OperationFailed
from backends.tinkex_dev.storage.records import RunRecord, SamplerRecord, SessionRecord, StoredCheckpoint
from backends.tiny_lm import safetensors
from crucible.values.record import Record
from nsai_work.files.home import make_private_folder, write_private_file

_STATE: Final = "state.safetensors"
_RECORD: Final = "checkpoint.json"
_ENCRYPTED: Final = "encrypted"
R = TypeVar("R", bound=Record)


class StateFolder:
    """Reads and writes the state folder. The caller has locked it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for part in ("sessions", "samplers", "runs"):
            make_private_folder(folder / part)

    def save_session(self, session: SessionRecord) -> None:
        _write(self.folder / "sessions" / f"{_safe(session.id)}.json", session.model_dump_json().encode())

    def save_sampler(self, sampler: SamplerRecord) -> None:
        _write(self.folder / "samplers" / f"{_safe(sampler.id)}.json", sampler.model_dump_json().encode())

    def delete_sampler(self, sampler_id: str) -> None:
        (self.folder / "samplers" / f"{_safe(sampler_id)}.json").unlink(missing_ok=True)

    def save_run(self, run: RunRecord) -> None:
        _write(self._run_folder(run.id) / "run.json", run.model_dump_json().encode())

    def sessions(self) -> list[SessionRecord]:
        return _read_all(SessionRecord, self.folder.glob("sessions/*.json"))

    def samplers(self) -> list[SamplerRecord]:
        return _read_all(SamplerRecord, self.folder.glob("samplers/*.json"))

    def runs(self) -> list[RunRecord]:
        return _read_all(RunRecord, self.folder.glob("runs/*/run.json"))

    def checkpoints(self) -> list[StoredCheckpoint]:
        return _read_all(StoredCheckpoint, self.folder.glob(f"runs/*/*/*/{_RECORD}"))

    def write_checkpoint(
        self, record: StoredCheckpoint, arrays: Mapping[str, NDArray[np.generic]]
    ) -> StoredCheckpoint:
        """Save the arrays and the record; returns the record with their size and hash."""
        data = safetensors.pack(arrays)
        record = record.model_copy(update={"size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})
        _write(self._checkpoint_folder(record) / _STATE, data)
        self.save_checkpoint(record)
        return record

    def save_checkpoint(self, record: StoredCheckpoint) -> None:
        """Replace a checkpoint's record; its arrays stay."""
        _write(self._checkpoint_folder(record) / _RECORD, record.model_dump_json().encode())

    def read_checkpoint(self, record: StoredCheckpoint) -> dict[str, NDArray[np.generic]]:
        """Read the arrays of a checkpoint.

        Raises:
            OperationFailed: the file is missing, truncated or altered.
        """
        try:
            data = (self._checkpoint_folder(record) / _STATE).read_bytes()
        except OSError as error:
            raise OperationFailed(f"Checkpoint {record.path} cannot be read: {error.strerror}", "server") from error
        if hashlib.sha256(data).hexdigest() != record.sha256:
            raise OperationFailed(
                f"Checkpoint {record.path} is damaged: {len(data)} of {record.size_bytes} bytes, "
                "and their hash differs from the recorded one",
                "server",
            )
        return safetensors.unpack(data)

    def write_encrypted(self, record: StoredCheckpoint, files: Mapping[str, bytes]) -> None:
        """Save a checkpoint's encrypted files, which cannot be made again byte for byte."""
        for name, data in files.items():
            _write(self._checkpoint_folder(record) / _ENCRYPTED / _safe(name), data)

    def read_encrypted(self, record: StoredCheckpoint) -> dict[str, bytes]:
        """Read a checkpoint's encrypted files; none if its files are not encrypted.

        Raises:
            OperationFailed: one is missing.
        """
        folder = self._checkpoint_folder(record) / _ENCRYPTED
        try:
            return {name: (folder / _safe(name)).read_bytes() for name in record.encrypted_files}
        except OSError as error:
            raise OperationFailed(f"Files of {record.path} cannot be read: {error.strerror}", "server") from error

    def delete_checkpoint(self, record: StoredCheckpoint) -> None:
        """Delete a checkpoint's record and arrays."""
        shutil.rmtree(self._checkpoint_folder(record), ignore_errors=True)

    def damage(self, record: StoredCheckpoint, *, missing: bool) -> None:
        """Truncate a checkpoint's file to half its size, or remove it; its record stays."""
        file = self._checkpoint_folder(record) / _STATE
        if missing:
            file.unlink(missing_ok=True)
        else:
            os.truncate(file, record.size_bytes // 2)

    def _run_folder(self, run_id: str) -> Path:
        return self.folder / "runs" / _safe(run_id)

    def _checkpoint_folder(self, record: StoredCheckpoint) -> Path:
        return self._run_folder(record.run_id) / record.kind.value / _safe(record.name)


def _safe(name: str) -> str:
    return quote(name, safe="").replace(".", "%2E")


def _write(path: Path, data: bytes) -> None:
    make_private_folder(path.parent)
    write_private_file(path, data)


def _read_all(kind: type[R], paths: Iterable[Path]) -> list[R]:
    records: list[R] = []
    for path in sorted(paths):
        with contextlib.suppress(OSError):
            records.append(kind.model_validate_json(path.read_bytes()))
    return records
