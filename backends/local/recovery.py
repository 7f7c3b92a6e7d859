"""Bringing a run of this process back from a checkpoint on its disk."""

import asyncio
import inspect
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

from pydantic import JsonValue

from backends.local.checkpoints import CheckpointPath, CheckpointStore
from backends.local.engine import Engine
from crucible.checkpoint_choice import in_order
from crucible.errors import CrucibleError, NoCheckpoint, NotFound
from crucible.recovery import RecoveredRun, RecoveryEvent, RecoveryEventName, RecoveryObserver, RecoveryRequest
from crucible.training import CheckpointCheck, CheckpointRef, LiveRun, RunSpec

E = TypeVar("E", bound=Engine)


def check(path: str, spec: RunSpec, store: CheckpointStore[E]) -> CheckpointCheck:
    """Whether the checkpoint can be read and fits."""
    try:
        place = CheckpointPath.parse(path, store.scheme)
        info = store.info(place)
    except CrucibleError as exc:
        return CheckpointCheck(path=path, usable=False, reason=exc.message)
    wrong = None
    if info.spec.base_model != spec.base_model:
        wrong = f"it was made from {info.spec.base_model}, not {spec.base_model}"
    elif info.spec.lora.rank != spec.lora.rank:
        wrong = f"its rank is {info.spec.lora.rank}, not {spec.lora.rank}"
    return CheckpointCheck(path=path, usable=wrong is None, reason=wrong, size_bytes=store.size_bytes(place))


class LocalRecovery(Generic[E]):
    """One recovery. ``drive`` makes a run of the engine that holds the checkpoint's state."""

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
        """Recover. Raises NoCheckpoint when none is usable: on a disk nothing gets better by waiting."""
        request, policy = self._request, self._request.policy
        await self._say(RecoveryEventName.STARTED, reason=request.reason, attempt=0)
        try:
            checkpoint, engine = await self._choose()
        except NoCheckpoint as exc:
            await self._say(RecoveryEventName.FAILED, code=exc.code, reason=exc.message)
            if policy.on_failure is not None:
                policy.on_failure(request.failed.run_id, exc.code)
            raise
        run = self._drive(engine)
        await self._say(RecoveryEventName.CLIENT_CREATED, new_run_id=run.ref.run_id)
        await self._say(RecoveryEventName.COMPLETED, new_run_id=run.ref.run_id, checkpoint=checkpoint.path)
        if policy.on_recovery is not None:
            policy.on_recovery(request.failed, run, checkpoint)
        return RecoveredRun(run, checkpoint, policy.restore_optimizer)

    async def _choose(self) -> tuple[CheckpointRef, E]:
        reasons = []
        for ref in in_order(self._request.policy.checkpoint_strategy, self._candidates()):
            found = check(ref.path, self._request.spec, self._store)
            reason = found.reason
            if found.usable:
                await self._say(RecoveryEventName.CHECKPOINT_SELECTED, path=ref.path, step=ref.step)
                try:
                    engine, info = await asyncio.to_thread(
                        self._store.load,
                        CheckpointPath.parse(ref.path, self._store.scheme),
                        optimizer=self._request.policy.restore_optimizer,
                    )
                except NotFound as exc:
                    reason = exc.message
                else:
                    return ref.model_copy(update={"step": info.step}), engine
            reasons.append(f"{ref.path}: {reason}")
            await self._say(RecoveryEventName.CHECKPOINT_REJECTED, path=ref.path, reason=reason)
        raise NoCheckpoint(f"no checkpoint is usable: {'; '.join(reasons)}", backend=self._store.scheme)

    def _candidates(self) -> Sequence[CheckpointRef]:
        """The caller's or, when there are none, the failed run's own, newest first."""
        if self._request.candidates:
            return self._request.candidates
        return [
            CheckpointRef(path=str(path), name=path.name, step=info.step, has_optimizer=info.has_optimizer)
            for path, info in self._store.of_run(self._request.failed.run_id)
        ]

    async def _say(self, name: RecoveryEventName, **details: JsonValue) -> None:
        event = RecoveryEvent(
            name=f"{self._store.scheme}.recovery.{name}", run_id=self._request.failed.run_id, details=details
        )
        answer = self._observe(event)
        if inspect.isawaitable(answer):
            await answer
