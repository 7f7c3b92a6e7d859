"""Recovery of an in-process run from a checkpoint on disk."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from backends.local.checkpoints import CheckpointPath, CheckpointStore
from backends.local.engine import Engine
from crucible.errors import CrucibleError, NotFound
from crucible.recovery import (
    Announcer,
    CheckpointSource,
    RecoveredRun,
    RecoveryLoop,
    RecoveryObserver,
    RecoveryRequest,
    Restored,
    UnusableCheckpoint,
)
from crucible.training import CheckpointCheck, CheckpointRef, LiveRun, RunSpec

E = TypeVar("E", bound=Engine)


def check(path: str, spec: RunSpec, store: CheckpointStore[E]) -> CheckpointCheck:
    """Check that a checkpoint can be read and fits ``spec``."""
    try:
        parsed = CheckpointPath.parse(path, store.scheme)
        info = store.info(parsed)
    except CrucibleError as exc:
        return CheckpointCheck(path=path, usable=False, reason=exc.message)
    mismatch = _mismatch(info.spec, spec)
    return CheckpointCheck(path=path, usable=mismatch is None, reason=mismatch, size_bytes=store.size_bytes(parsed))


def _mismatch(found: RunSpec, asked: RunSpec) -> str | None:
    if found.base_model != asked.base_model:
        return f"it was made from {found.base_model}, not {asked.base_model}"
    if (name := found.lora.other_shape(asked.lora)) is not None:
        return f"its {name} is {getattr(found.lora, name)}, not {getattr(asked.lora, name)}"
    return None


class LocalRecovery(CheckpointSource[LiveRun], Generic[E]):
    """A recovery. ``drive`` creates a run from an engine in the checkpoint's state."""

    def __init__(
        self,
        request: RecoveryRequest,
        store: CheckpointStore[E],
        observe: RecoveryObserver,
        drive: Callable[[E], LiveRun],
    ) -> None:
        self._request = request
        self._store = store
        self._observe = observe
        self._drive = drive

    async def run(self) -> RecoveredRun:
        """Recover. Raises as ``TrainingBackend.recover``."""
        loop = RecoveryLoop(
            backend=self._store.scheme,
            run_id=self._request.failed.run_id,
            reason=self._request.reason,
            policy=self._request.policy,
            source=self,
            announce=Announcer(self._store.scheme, self._observe),
            old=self._request.failed,
            sleep=asyncio.sleep,
        )
        restored = await loop.run()
        return RecoveredRun(restored.run, restored.checkpoint, self._request.policy.restore_optimizer)

    async def candidates(self) -> Sequence[CheckpointRef]:
        if self._request.candidates:
            return self._request.candidates
        return [
            CheckpointRef(path=str(path), name=path.name, step=info.step, has_optimizer=info.has_optimizer)
            for path, info in self._store.of_run(self._request.failed.run_id)
        ]

    async def check(self, checkpoint: CheckpointRef) -> CheckpointCheck:
        return check(checkpoint.path, self._request.spec, self._store)

    async def restore(self, checkpoint: CheckpointRef) -> Restored[LiveRun]:
        path = CheckpointPath.parse(checkpoint.path, self._store.scheme)
        try:
            engine, info = await asyncio.to_thread(
                self._store.load, path, optimizer=self._request.policy.restore_optimizer
            )
        except NotFound as exc:
            raise UnusableCheckpoint(exc.message) from exc
        run = self._drive(engine)
        return Restored(run, run.ref.run_id, checkpoint.model_copy(update={"step": info.step}))
