"""Which checkpoint a recovery relies on: the candidates, and whether one is fit."""

import re
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from crucible.errors import CallerError, NotFound, RunGone, Unsupported
from crucible.training import CheckpointCheck, CheckpointRef, RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.rest import RestClient


async def list_candidates(rest: "RestClient", run_id: str) -> tuple[CheckpointRef, ...]:
    """The run's training checkpoints as the service lists them, newest first.

    Empty when there is none, or the service does not know the run. Raises BackendError when it cannot be asked.
    """
    listed = [one for one in await checkpoints_of(rest, run_id) if one.holds_training_state]
    newest = sorted(listed, key=lambda one: (one.time is not None, one.time or 0, step_in(one.checkpoint_id)))
    return tuple(
        CheckpointRef(
            path=one.tinker_path, name=one.checkpoint_id.rpartition("/")[2], step=step_in(one.checkpoint_id)
        )
        for one in reversed(newest)
    )


async def checkpoints_of(rest: "RestClient", run_id: str) -> Sequence[Checkpoint]:
    """What the service lists for a run; where it lists nothing, the run's own last checkpoint."""
    try:
        return (await rest.list_checkpoints(run_id)).checkpoints
    except Unsupported:
        pass
    except (NotFound, RunGone):
        return ()
    try:
        last = (await rest.get_training_run(run_id)).last_checkpoint
    except (NotFound, RunGone, Unsupported):
        return ()
    return () if last is None else (last,)


def step_in(checkpoint_id: str) -> int:
    """The step that a checkpoint's name ends in (``weights/000120`` is 120), else 0: services do not store it."""
    found = re.search(r"(\d{1,18})$", checkpoint_id)
    return int(found[1]) if found else 0


async def validate(rest: "RestClient", path: str, spec: RunSpec | None, now: datetime) -> CheckpointCheck:
    """Whether a recovery may rely on a checkpoint: it exists, holds a training state, is not expired, and fits
    ``spec``. Raises BackendError when the service cannot be asked."""
    try:
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
        if parsed.checkpoint_type is not CheckpointKind.TRAINING:
            return _unfit(path, "it holds weights to sample from, not a training state")
        info = await rest.get_weights_info_by_tinker_path(path)
    except Unsupported as error:
        return CheckpointCheck(path=path, usable=True, reason=f"not checked: {error.message}")
    except (CallerError, RunGone) as error:
        return _unfit(path, error.message)
    if spec is not None:
        if info.base_model and info.base_model != spec.base_model:
            return _unfit(path, f"it was made from base model {info.base_model}, not {spec.base_model}")
        if info.lora_rank is not None and info.lora_rank != spec.lora.rank:
            return _unfit(path, f"its rank is {info.lora_rank}, not {spec.lora.rank}")
    listed = await _listed(rest, parsed)
    if listed is not None and listed.expires_at is not None and listed.expires_at <= now:
        return _unfit(path, f"it expired at {listed.expires_at.isoformat()}")
    return CheckpointCheck(path=path, usable=True, size_bytes=None if listed is None else listed.size_bytes)


async def _listed(rest: "RestClient", parsed: ParsedCheckpointTinkerPath) -> Checkpoint | None:
    try:
        listed = await checkpoints_of(rest, parsed.training_run_id)
    except CallerError:
        return None
    return next((one for one in listed if one.tinker_path == parsed.tinker_path), None)


def _unfit(path: str, reason: str) -> CheckpointCheck:
    return CheckpointCheck(path=path, usable=False, reason=reason)
