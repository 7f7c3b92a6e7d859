"""Bringing a run of the scripted backend back from a checkpoint."""

import asyncio
import inspect
from collections.abc import Sequence

from backends.fake.checkpoints import CheckpointFolder, CheckpointPath
from backends.fake.model import Model
from crucible.checkpoint_choice import in_order
from crucible.errors import CrucibleError, NoCheckpoint, NotFound
from crucible.recovery import RecoveryEvent, RecoveryEventName, RecoveryObserver, RecoveryRequest
from crucible.training import CheckpointCheck, CheckpointRef, RunSpec


class Announcer:
    """Tells an observer what happens, under the backend's name."""

    def __init__(self, run_id: str, observe: RecoveryObserver) -> None:
        self._run_id = run_id
        self._observe = observe

    async def __call__(self, name: RecoveryEventName, **details: str | int | bool | None) -> None:
        answer = self._observe(
            RecoveryEvent(name=f"fake.recovery.{name}", run_id=self._run_id, details=dict(details))
        )
        if inspect.isawaitable(answer):
            await answer


def candidates_of(request: RecoveryRequest, checkpoints: CheckpointFolder) -> Sequence[CheckpointRef]:
    """The caller's candidates or, when there are none, the failed run's own checkpoints, newest first."""
    if request.candidates:
        return request.candidates
    return [
        CheckpointRef(path=str(path), name=path.name, step=info.step, has_optimizer=info.has_optimizer)
        for path, info in checkpoints.of_run(request.failed.run_id)
    ]


def check(path: str, spec: RunSpec, checkpoints: CheckpointFolder) -> CheckpointCheck:
    """Whether the checkpoint can be read and fits."""
    try:
        place = CheckpointPath.parse(path)
        info = checkpoints.info(place)
    except CrucibleError as exc:
        return CheckpointCheck(path=path, usable=False, reason=exc.message)
    wrong = None
    if info.base_model != spec.base_model:
        wrong = f"it was made from {info.base_model}, not {spec.base_model}"
    elif info.lora.rank != spec.lora.rank:
        wrong = f"its rank is {info.lora.rank}, not {spec.lora.rank}"
    return CheckpointCheck(path=path, usable=wrong is None, reason=wrong, size_bytes=checkpoints.size_bytes(place))


async def choose(
    request: RecoveryRequest, checkpoints: CheckpointFolder, say: Announcer
) -> tuple[CheckpointRef, Model]:
    """The first usable checkpoint and the model in its state. Raises NoCheckpoint when none is usable."""
    reasons = []
    for ref in in_order(request.policy.checkpoint_strategy, candidates_of(request, checkpoints)):
        found = check(ref.path, request.spec, checkpoints)
        reason = found.reason
        if found.usable:
            try:
                model, info = await asyncio.to_thread(
                    checkpoints.model, CheckpointPath.parse(ref.path), optimizer=request.policy.restore_optimizer
                )
            except NotFound as exc:
                reason = exc.message
            else:
                await say(RecoveryEventName.CHECKPOINT_SELECTED, path=ref.path, step=info.step)
                return ref.model_copy(update={"step": info.step}), model
        reasons.append(f"{ref.path}: {reason}")
        await say(RecoveryEventName.CHECKPOINT_REJECTED, path=ref.path, reason=reason)
    raise NoCheckpoint(f"no checkpoint is usable: {'; '.join(reasons)}", backend="fake")
