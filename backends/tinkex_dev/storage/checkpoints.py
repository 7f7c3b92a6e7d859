"""The table of checkpoints, and the operations on them."""

import hashlib
import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final

from pydantic import JsonValue

from backends.tinkex_dev.clock import ServerClock
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.storage.records import RunRecord, SaveKind, StoredCheckpoint, checkpoint_path
from backends.tinkex_dev.storage.state_folder import StateFolder
from backends.tiny_lm.adapter import Adapter

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


def valid_name(name: str) -> bool:
    """Check whether a checkpoint name is allowed."""
    return _NAME.fullmatch(name) is not None


class Checkpoints:
    """All checkpoints of a state folder. Expired ones are deleted by the next lookup."""

    def __init__(self, folder: StateFolder, clock: ServerClock, *, opaque: bool = False) -> None:
        self._folder = folder
        self._opaque = opaque
        self._clock = clock
        self._by_path: dict[str, StoredCheckpoint] = {record.path: record for record in folder.checkpoints()}

    def all(self, *, run_id: str | None = None) -> list[StoredCheckpoint]:
        """All checkpoints, or those of one run, newest first."""
        now = self._clock.now()
        # copies: the compute thread saves meanwhile
        for record in [r for r in list(self._by_path.values()) if r.expires_at is not None and r.expires_at <= now]:
            self.delete(record)
        selected = [record for record in list(self._by_path.values()) if run_id in (None, record.run_id)]
        return sorted(selected, key=lambda record: (record.time, record.step, record.path), reverse=True)

    def find(self, path: str) -> StoredCheckpoint:
        """The checkpoint at a path.

        Raises:
            Refused: 400 for a malformed path, 404 for a missing or expired checkpoint.
        """
        if self._opaque:
            record = next((one for one in list(self._by_path.values()) if self.public_path(one) == path), None)
        else:
            _check_path(path)
            record = self._by_path.get(path)
        if record is not None and record.expires_at is not None and record.expires_at <= self._clock.now():
            self.delete(record)
            record = None
        if record is None:
            raise Refused(404, f"Checkpoint {path} not found")
        return record

    def find_own(self, path: str) -> StoredCheckpoint:
        """As :meth:`find`, by the checkpoint's own path also with ``opaque``."""
        record = self._by_path.get(path)
        return self.find(path if record is None else self.public_path(record))

    def copy(self, record: StoredCheckpoint, run_id: str, *, expires_at: datetime | None) -> StoredCheckpoint:
        """Copy a checkpoint into another run.

        Raises:
            OperationFailed: its file is missing or damaged.
        """
        state = self._folder.read_checkpoint(record)
        changes = {"run_id": run_id, "time": self._clock.now(), "expires_at": expires_at, "public": False}
        copied = record.model_copy(update=changes)
        self._folder.write_encrypted(copied, self._folder.read_encrypted(record))
        copied = self._folder.write_checkpoint(copied, state)
        self._by_path[copied.path] = copied
        return copied

    def public_path(self, record: StoredCheckpoint) -> str:
        """The path under which clients refer to a checkpoint: its own, or with ``opaque`` one without meaning."""
        if not self._opaque:
            return record.path
        return f"/state/checkpoints/st-{hashlib.sha256(record.path.encode()).hexdigest()[:12]}"

    def is_taken(self, run_id: str, kind: SaveKind, name: str) -> bool:
        """Check whether a run has a checkpoint of that kind and name."""
        return checkpoint_path(run_id, kind, name) in self._by_path

    def save(
        self,
        run: RunRecord,
        adapter: Adapter,
        kind: SaveKind,
        name: str,
        *,
        overwrite: bool = False,
        expires_at: datetime | None = None,
        user_metadata: dict[str, JsonValue] | None = None,
        age_recipients: Sequence[str] = (),
    ) -> StoredCheckpoint:
        """Save a run's adapter, with the optimizer state for a training checkpoint.

        Raises:
            OperationFailed: the name is taken and ``overwrite`` is false.
        """
        path = checkpoint_path(run.id, kind, name)
        if path in self._by_path and not overwrite:
            raise OperationFailed(f"Checkpoint {path} already exists", "user")
        record = StoredCheckpoint(
            run_id=run.id,
            kind=kind,
            name=name,
            base_model=run.base_model,
            lora=run.lora,
            time=self._clock.now(),
            size_bytes=0,
            sha256="",
            state_digest=adapter.digest(),
            step=adapter.steps,
            optimizer=run.optimizer,
            expires_at=expires_at,
            user_metadata=user_metadata,
            age_recipients=tuple(age_recipients),
        )
        record = self._folder.write_checkpoint(record, adapter.state(optimizer=kind is SaveKind.TRAINING))
        self._by_path[path] = record
        return record

    def load(self, record: StoredCheckpoint, *, optimizer: bool) -> Adapter:
        """Load the adapter of a checkpoint.

        Raises:
            OperationFailed: its file is missing or damaged.
        """
        return Adapter.of_state(record.lora.shape, self._folder.read_checkpoint(record), optimizer=optimizer)

    def update(self, record: StoredCheckpoint, **changes: object) -> StoredCheckpoint:
        """Change fields of a checkpoint's record."""
        updated = record.model_copy(update=changes)
        self._folder.save_checkpoint(updated)
        self._by_path[updated.path] = updated
        return updated

    def delete(self, record: StoredCheckpoint) -> None:
        """Delete a checkpoint."""
        self._by_path.pop(record.path, None)
        self._folder.delete_checkpoint(record)

    def damage(self, record: StoredCheckpoint, *, missing: bool) -> None:
        """Truncate or remove a checkpoint's file; its record stays listed."""
        self._folder.damage(record, missing=missing)


def _check_path(path: str) -> None:
    parts = path.removeprefix("tinker://").split("/")
    if not path.startswith("tinker://") or len(parts) != 3 or not parts[0]:
        raise Refused(400, f"{path!r} is not a checkpoint path; expected tinker://RUN/weights/NAME")
    kinds = [kind.value for kind in SaveKind]
    if parts[1] not in kinds:
        raise Refused(400, f"{path!r} is not a checkpoint path; its second part must be one of {', '.join(kinds)}")
