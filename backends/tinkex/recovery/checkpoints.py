"""Checkpoints at a Tinker service, as a recovery needs them: list, validate, restore."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

from backends.tinkex.errors import BACKEND
from backends.tinkex.new_run import new_run
from backends.tinkex.types.checkpoint import Checkpoint
from backends.tinkex.types.checkpoint_address import CheckpointAddress
from backends.tinkex.types.checkpoint_path import CheckpointKind, ParsedCheckpointTinkerPath
from backends.tinkex.types.optimizer import OptimizerConfigBase
from crucible.errors import CallerError, CrucibleError, NoCheckpoint, NotFound, RunGone, Unsupported
from crucible.recovery import CheckpointSource, RecoveryPolicy, Restored, UnusableCheckpoint
from crucible.training import CheckpointCheck, CheckpointRef, LoraSpec, RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.rest.client import RestClient
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training.client import TrainingClient


RECOVERED_FROM: Final = "recovered_from"
"""The key in a recovered run's user metadata: the id of the run that it continues."""
_MAX_LINEAGE: Final = 100


class ServiceCheckpoints(CheckpointSource["TrainingClient"]):
    """The checkpoints to recover a run from. Without ``known`` ones, those that the service lists for the run and
    for the runs that it continues; without a ``spec``, it is read from the checkpoint.

    ``origins`` maps a recovered run to the run that it continues; where it is silent, the runs' metadata say it.
    """

    def __init__(
        self,
        service: "ServiceClient",
        run_id: str,
        policy: RecoveryPolicy,
        *,
        spec: RunSpec | None = None,
        known: Sequence[CheckpointRef] = (),
        origins: Mapping[str, str] | None = None,
    ) -> None:
        self.run_id = run_id
        self.policy = policy
        self._service = service
        self._spec = spec
        self._known = known
        self._origins = origins or {}

    async def candidates(self) -> Sequence[CheckpointRef]:
        """As the base class.

        Raises:
            NoCheckpoint: the strategy is ``best_loss``, and no listed checkpoint was saved with a metric.
        """
        if self._known:
            return self._known
        rest = self._service.create_rest_client()
        metrics = self._service.connection.checkpoint_metrics
        found: list[CheckpointRef] = []
        for run_id in await lineage(rest, self.run_id, self._origins):
            listed = await list_candidates(rest, run_id)
            found += [ref.model_copy(update={"metric": metrics.get((run_id, ref.name))}) for ref in listed]
        strategy = self.policy.checkpoint_strategy
        if strategy == "best_loss" and found and all(ref.metric is None for ref in found):
            raise NoCheckpoint(
                f"checkpoint_strategy best_loss: no checkpoint of run {self.run_id} was saved with a metric by "
                "this service client; give one at each save (save_state(name, metric=loss)), or use latest",
                backend=BACKEND,
            )
        if self.policy.names_checkpoint and all(ref.path != strategy for ref in found):
            name = strategy.rpartition("/")[2]
            found.append(CheckpointRef(path=strategy, name=name, step=step_in(name)))
        return found

    async def check(self, checkpoint: CheckpointRef) -> CheckpointCheck:
        return await validate(self._service.create_rest_client(), checkpoint.path, self._spec)

    async def restore(self, checkpoint: CheckpointRef) -> "Restored[TrainingClient]":
        spec, optimizer = (self._spec, None) if self._spec else await self._read_spec(checkpoint.path)
        # a new session, as the old one may be what was lost, and a new run, as some services load into no other
        metadata = {**spec.user_metadata, RECOVERED_FROM: self.run_id}
        client = await new_run(
            self._service.with_new_session(), spec.model_copy(update={"user_metadata": metadata}), optimizer
        )
        try:
            if self.policy.restore_optimizer:
                await client.load_state_with_optimizer(checkpoint.path)
            else:
                await client.load_state(checkpoint.path)
        except BaseException as error:
            await client.discard()
            await client.service.end_sessions()
            if isinstance(error, CrucibleError) and blames_checkpoint(error):
                raise UnusableCheckpoint(str(error)) from error
            raise
        return Restored(client, client.model_id, checkpoint)

    async def _read_spec(self, path: str) -> tuple[RunSpec, OptimizerConfigBase | None]:
        info = await self._service.create_rest_client().get_weights_info_by_tinker_path(path)
        lora = LoraSpec(
            rank=info.lora_rank or LoraSpec().rank,
            train_unembed=info.train_unembed is not False,
            train_mlp=info.train_mlp is not False,
            train_attn=info.train_attn is not False,
        )
        metadata = await _metadata(self._service.create_rest_client(), self.run_id)
        return RunSpec(base_model=info.base_model, lora=lora, user_metadata=metadata), info.optimizer_config


async def lineage(rest: "RestClient", run_id: str, origins: Mapping[str, str]) -> Sequence[str]:
    """Return the ids of a run and of the runs that it continues, newest first."""
    run_ids = [run_id]
    while len(run_ids) < _MAX_LINEAGE:
        newest = run_ids[-1]
        origin = origins.get(newest) or (await _metadata(rest, newest)).get(RECOVERED_FROM)
        if not origin or origin in run_ids:
            break
        run_ids.append(origin)
    return run_ids


async def _metadata(rest: "RestClient", run_id: str) -> dict[str, str]:
    try:
        return (await rest.get_training_run(run_id)).user_metadata or {}
    except (NotFound, RunGone, Unsupported):
        return {}


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


async def validate(rest: "RestClient", path: str, spec: RunSpec | None) -> CheckpointCheck:
    """Check that a checkpoint exists, holds a training state, and fits ``spec``.

    Only the service says whether it has expired, by its own clock.

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
    return CheckpointCheck(path=path, usable=True, size_bytes=None if listed is None else listed.size_bytes)


def blames_checkpoint(error: CrucibleError) -> bool:
    """Check whether a load failed because of the checkpoint, and not of the service, so that an older one may load.

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
