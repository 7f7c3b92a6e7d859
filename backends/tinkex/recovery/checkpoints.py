"""Checkpoints at a Tinker service, as a recovery needs them: list, validate, restore."""

import asyncio
import contextlib
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from crucible.errors import CallerError, CrucibleError, NotFound, RunGone, Unsupported
from crucible.recovery import CheckpointSource, RecoveryPolicy, Restored, UnusableCheckpoint
from crucible.training import CheckpointCheck, CheckpointRef, LoraSpec, RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.rest import RestClient
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training import TrainingClient


class ServiceCheckpoints(CheckpointSource["TrainingClient"]):
    """The checkpoints of one run. Without ``known`` ones the service lists them; without a ``spec`` it is read from
    the checkpoint."""

    def __init__(
        self,
        service: "ServiceClient",
        run_id: str,
        policy: RecoveryPolicy,
        now: Callable[[], datetime],
        *,
        spec: RunSpec | None = None,
        known: Sequence[CheckpointRef] = (),
    ) -> None:
        self.run_id = run_id
        self.policy = policy
        self._service = service
        self._now = now
        self._spec = spec
        self._known = known

    async def candidates(self) -> Sequence[CheckpointRef]:
        return self._known or await list_candidates(self._service.create_rest_client(), self.run_id)

    async def check(self, checkpoint: CheckpointRef) -> CheckpointCheck:
        return await validate(self._service.create_rest_client(), checkpoint.path, self._spec, self._now())

    async def restore(self, checkpoint: CheckpointRef) -> "Restored[TrainingClient]":
        spec = self._spec or await self._read_spec(checkpoint.path)
        # a new session, as the old one may be what was lost, and a new run, as some services load into no other
        client = await self._service.with_new_session().create_lora_training_client_async(
            spec.base_model,
            rank=spec.lora.rank,
            seed=spec.lora.seed,
            train_unembed=spec.lora.train_unembed,
            train_mlp=spec.lora.train_mlp,
            train_attn=spec.lora.train_attn,
            user_metadata=dict(spec.user_metadata),
        )
        try:
            if self.policy.restore_optimizer:
                await client.load_state_with_optimizer(checkpoint.path)
            else:
                await client.load_state(checkpoint.path)
        except BaseException as error:
            await _unload(client)
            if isinstance(error, CrucibleError) and blames_checkpoint(error):
                raise UnusableCheckpoint(str(error)) from error
            raise
        return Restored(client, client.model_id, checkpoint)

    async def _read_spec(self, path: str) -> RunSpec:
        info = await self._service.create_rest_client().get_weights_info_by_tinker_path(path)
        lora = LoraSpec(
            rank=info.lora_rank or LoraSpec().rank,
            train_unembed=info.train_unembed is not False,
            train_mlp=info.train_mlp is not False,
            train_attn=info.train_attn is not False,
        )
        return RunSpec(base_model=info.base_model, lora=lora)


async def list_candidates(rest: "RestClient", run_id: str) -> tuple[CheckpointRef, ...]:
    """List the run's training checkpoints at the service, newest first.

    Empty when there is none, or the service does not know the run. Raises BackendError when the service fails.
    """
    listed = [checkpoint for checkpoint in await checkpoints_of(rest, run_id) if checkpoint.holds_training_state]
    oldest_first = sorted(
        listed, key=lambda item: (item.time is not None, item.time or 0, step_in(item.checkpoint_id))
    )
    return tuple(
        CheckpointRef(
            path=checkpoint.tinker_path,
            name=checkpoint.checkpoint_id.rpartition("/")[2],
            step=step_in(checkpoint.checkpoint_id),
        )
        for checkpoint in reversed(oldest_first)
    )


async def checkpoints_of(rest: "RestClient", run_id: str) -> Sequence[Checkpoint]:
    """Return the service's list of a run's checkpoints; where it has no such route, the run's last checkpoint."""
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
    """Return the step at the end of a checkpoint's name (120 for ``weights/000120``), else 0: services do not store
    the step."""
    match = re.search(r"(\d{1,18})$", checkpoint_id)
    return int(match[1]) if match else 0


async def validate(rest: "RestClient", path: str, spec: RunSpec | None, now: datetime) -> CheckpointCheck:
    """Check that a checkpoint exists, holds a training state, has not expired, and fits ``spec``.

    Raises BackendError when the service fails.
    """
    try:
        address = CheckpointAddress.parse(path)
        if address.parts is not None and address.parts.checkpoint_type is not CheckpointKind.TRAINING:
            return _unusable(path, "it holds sampling weights, not a training state")
        info = await rest.get_weights_info_by_tinker_path(address)
    except Unsupported as error:
        return CheckpointCheck(path=path, usable=True, reason=f"not checked: {error.message}")
    except (CallerError, RunGone) as error:
        return _unusable(path, error.message)
    if spec is not None:
        if info.base_model and info.base_model != spec.base_model:
            return _unusable(path, f"it was made from base model {info.base_model}, not {spec.base_model}")
        if info.lora_rank is not None and info.lora_rank != spec.lora.rank:
            return _unusable(path, f"its rank is {info.lora_rank}, not {spec.lora.rank}")
    listed = None if address.parts is None else await _listed(rest, address.parts)
    if listed is not None and listed.expires_at is not None and listed.expires_at <= now:
        return _unusable(path, f"it expired at {listed.expires_at.isoformat()}")
    return CheckpointCheck(path=path, usable=True, size_bytes=None if listed is None else listed.size_bytes)


def blames_checkpoint(error: CrucibleError) -> bool:
    """Whether the checkpoint, and not the service, is the cause of a failed load, so that an older one may load.

    A load that the service accepted and then failed has ``category`` in its details, whatever its message.
    """
    return isinstance(error, CallerError) or error.code == "run_corrupted" or "category" in error.details


async def _listed(rest: "RestClient", parsed: ParsedCheckpointTinkerPath) -> Checkpoint | None:
    try:
        listed = await checkpoints_of(rest, parsed.training_run_id)
    except CallerError:
        return None
    return next((checkpoint for checkpoint in listed if checkpoint.tinker_path == parsed.tinker_path), None)


def _unusable(path: str, reason: str) -> CheckpointCheck:
    return CheckpointCheck(path=path, usable=False, reason=reason)


async def _unload(client: "TrainingClient") -> None:
    """Free a run that was created in vain, if the service answers soon."""
    with contextlib.suppress(CrucibleError, TimeoutError):
        async with asyncio.timeout(10):
            await client.unload()
    with contextlib.suppress(CrucibleError, TimeoutError):
        await client.service.end_sessions()
