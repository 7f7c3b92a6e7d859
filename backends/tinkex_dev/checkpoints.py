"""The checkpoints that exist, and what may be done with them."""

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from backends.tinkex_dev.clock import Clock
from backends.tinkex_dev.errors import OperationFailed, Refused
from backends.tinkex_dev.model.adapter import Adapter
from backends.tinkex_dev.records import CheckpointKind, CheckpointRecord
from backends.tinkex_dev.requests import Metadata
from backends.tinkex_dev.runs import LiveRun, adapter_shape
from backends.tinkex_dev.storage import Storage

_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,199}")


@dataclass(frozen=True, slots=True)
class CheckpointPath:
    """A ``tinker://RUN/KIND/NAME`` taken apart."""

    run_id: str
    kind: CheckpointKind
    name: str

    @property
    def text(self) -> str:
        return f"tinker://{self.run_id}/{self.kind.value}/{self.name}"


def parse_path(text: str) -> CheckpointPath:
    """Take a path apart.

    Raises:
        Refused: 400 if it is not of that form.
    """
    parts = text.removeprefix("tinker://").split("/")
    if not text.startswith("tinker://") or len(parts) != 3 or not parts[0]:
        raise Refused(400, f"{text!r} is not a checkpoint path; it is tinker://RUN/weights/NAME")
    try:
        return CheckpointPath(parts[0], CheckpointKind(parts[1]), parts[2])
    except ValueError:
        allowed = ", ".join(kind.value for kind in CheckpointKind)
        raise Refused(400, f"{text!r} is not a checkpoint path; its second part is one of {allowed}") from None


def valid_name(name: str) -> bool:
    """Whether a checkpoint may be called that."""
    return _NAME.fullmatch(name) is not None


class Checkpoints:
    """All checkpoints of the state folder; those past their time to live are gone when next looked for."""

    def __init__(self, storage: Storage, clock: Clock) -> None:
        self._storage = storage
        self._clock = clock
        self._known: dict[str, CheckpointRecord] = {record.path: record for record in storage.checkpoints()}

    def all(self, *, run_id: str | None = None) -> list[CheckpointRecord]:
        """The checkpoints, of one run if asked, the newest first."""
        now = self._clock.now()
        # copies: models save in their own threads meanwhile
        for record in [r for r in list(self._known.values()) if r.expires_at is not None and r.expires_at <= now]:
            self.delete(record)
        found = [record for record in list(self._known.values()) if run_id in (None, record.run_id)]
        return sorted(found, key=lambda record: (record.time, record.step, record.path), reverse=True)

    def find(self, text: str) -> CheckpointRecord:
        """The checkpoint of that path.

        Raises:
            Refused: 400 for a malformed path, 404 if there is none or it has expired.
        """
        path = parse_path(text)
        record = self._known.get(path.text)
        if record is not None and record.expires_at is not None and record.expires_at <= self._clock.now():
            self.delete(record)
            record = None
        if record is None:
            raise Refused(404, f"Checkpoint {text} not found")
        return record

    def is_taken(self, run_id: str, kind: CheckpointKind, name: str) -> bool:
        """Whether a run has a checkpoint of that kind and name."""
        return CheckpointPath(run_id, kind, name).text in self._known

    def save(
        self,
        run: LiveRun,
        kind: CheckpointKind,
        name: str,
        *,
        overwrite: bool = False,
        expires_at: datetime | None = None,
        user_metadata: Metadata | None = None,
    ) -> CheckpointRecord:
        """Write the run's state; a sampler's checkpoint has no optimizer state.

        Raises:
            OperationFailed: the name is taken and was not to be overwritten.
        """
        path = CheckpointPath(run.record.id, kind, name).text
        if path in self._known and not overwrite:
            raise OperationFailed(f"Checkpoint {path} already exists", "user")
        record = CheckpointRecord.model_validate(
            {
                "run_id": run.record.id,
                "kind": kind,
                "name": name,
                "base_model": run.record.base_model,
                "lora": run.record.lora,
                "time": self._clock.now(),
                "size_bytes": 0,
                "sha256": "",
                "state_digest": run.adapter.digest(),
                "step": run.adapter.steps,
                "expires_at": expires_at,
                "user_metadata": user_metadata,
            }
        )
        state = run.adapter.state(optimizer=kind is CheckpointKind.TRAINING)
        record = self._storage.write_checkpoint(record, state)
        self._known[path] = record
        return record

    def read(self, record: CheckpointRecord, *, optimizer: bool) -> Adapter:
        """The adapter that a checkpoint holds.

        Raises:
            OperationFailed: its file is missing or damaged.
        """
        arrays = self._storage.read_checkpoint(record)
        return Adapter.of_state(adapter_shape(record.lora), arrays, optimizer=optimizer)

    def change(self, record: CheckpointRecord, **changes: object) -> CheckpointRecord:
        """Change what is known about a checkpoint."""
        changed = record.model_copy(update=changes)
        self._storage.save_checkpoint(changed)
        self._known[changed.path] = changed
        return changed

    def delete(self, record: CheckpointRecord) -> None:
        """Remove a checkpoint."""
        self._known.pop(record.path, None)
        self._storage.delete_checkpoint(record)

    def damage(self, record: CheckpointRecord, *, missing: bool) -> None:
        """Break a checkpoint's file and leave its listing."""
        self._storage.damage(record, missing=missing)
