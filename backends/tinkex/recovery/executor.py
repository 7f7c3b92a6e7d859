"""Recovering a run: choose a checkpoint, check it, and bring its state back in a new run."""

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from backends.tinkex.recovery.announcer import Announcer
from backends.tinkex.recovery.monitor import Sleep
from backends.tinkex.recovery.selection import list_candidates, validate
from crucible.checkpoint_choice import in_order
from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    CallerError,
    CrucibleError,
    NoCheckpoint,
    OutOfCredit,
    RecoveryExhausted,
)
from crucible.recovery import RecoveryEventName, RecoveryObserver, RecoveryPolicy, RecoveryRequest
from crucible.training import CheckpointRef, LoraSpec, RunSpec

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training import TrainingClient


@dataclass(frozen=True, slots=True)
class RecoveredClient:
    """A client of a new remote run that holds the state of ``checkpoint``."""

    client: "TrainingClient"
    checkpoint: CheckpointRef
    optimizer_requested: bool


@dataclass(frozen=True, slots=True)
class _Task:
    run_id: str
    reason: str
    policy: RecoveryPolicy
    spec: RunSpec | None
    candidates: Sequence[CheckpointRef]
    old: Any
    say: Announcer


class RecoveryExecutor:
    """At most ``max_concurrent`` recoveries at once; the others wait in line."""

    def __init__(
        self,
        service: "ServiceClient",
        policy: RecoveryPolicy | None = None,
        *,
        max_concurrent: int = 4,
        observe: RecoveryObserver | None = None,
        sleep: Sleep = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if max_concurrent < 1:
            raise CallerError(f"max_concurrent: {max_concurrent} is not allowed; at least 1", backend="tinkex")
        self._service = service
        self._policy = policy or RecoveryPolicy(enabled=True)
        self._line = asyncio.Semaphore(max_concurrent)
        self._observe = observe
        self._sleep = sleep
        self._now = now
        self._tasks: set[asyncio.Task[None]] = set()

    async def recover(
        self, request: RecoveryRequest, *, observe: RecoveryObserver | None = None, old: Any = None
    ) -> RecoveredClient:
        """Recover; ``old`` is what the policy's ``on_recovery`` gets as the old client (else the failed run's ref).

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: every attempt failed.
            AuthenticationFailed, OutOfCredit: another attempt could not help.
        """
        return await self._recover(
            _Task(
                request.failed.run_id,
                request.reason,
                request.policy,
                request.spec,
                request.candidates,
                request.failed if old is None else old,
                Announcer(observe or self._observe),
            )
        )

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        """Recover a run in the background with this executor's policy, from the service's own checkpoints. How it
        ended is told by the events and by the policy's ``on_recovery`` and ``on_failure``."""
        task = _Task(run_id, reason, self._policy, None, (), client, Announcer(self._observe))
        running = asyncio.get_running_loop().create_task(self._in_background(task))
        self._tasks.add(running)
        running.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Return when all that was taken over has been recovered or given up."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Stop what is still going on in the background."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _in_background(self, task: _Task) -> None:
        with contextlib.suppress(CrucibleError):
            await self._recover(task)

    async def _recover(self, task: _Task) -> RecoveredClient:
        async with self._line:
            try:
                recovered = await self._attempts(task)
            except CrucibleError as error:
                await self._give_up(task, error)
                raise
        await task.say(
            RecoveryEventName.COMPLETED,
            task.run_id,
            new_run_id=recovered.client.model_id,
            checkpoint=recovered.checkpoint.path,
        )
        if task.policy.on_recovery is not None:
            task.policy.on_recovery(task.old, recovered.client, recovered.checkpoint)
        return recovered

    async def _give_up(self, task: _Task, error: CrucibleError) -> None:
        name = RecoveryEventName.EXHAUSTED if isinstance(error, RecoveryExhausted) else RecoveryEventName.FAILED
        await task.say(name, task.run_id, code=error.code, reason=str(error))
        if task.policy.on_failure is not None:
            task.policy.on_failure(task.run_id, error.code)

    async def _attempts(self, task: _Task) -> RecoveredClient:
        last: CrucibleError | None = None
        for attempt in range(task.policy.max_attempts):
            wait_ms = max(task.policy.backoff_before(attempt), last.retry_after_ms or 0 if last else 0)
            if wait_ms:
                await self._sleep(wait_ms / 1000)
            await task.say(RecoveryEventName.STARTED, task.run_id, attempt=attempt, reason=task.reason)
            try:
                return await self._attempt(task)
            except (NoCheckpoint, AuthenticationFailed, OutOfCredit, CallerError):
                raise
            except BackendError as error:
                last = error
                await task.say(
                    RecoveryEventName.FAILED, task.run_id, attempt=attempt, code=error.code, reason=str(error)
                )
        raise RecoveryExhausted(
            f"run {task.run_id} was not recovered in {task.policy.max_attempts} attempts; the last said: {last}",
            backend="tinkex",
            details={"run_id": task.run_id, "attempts": task.policy.max_attempts},
        ) from last

    async def _attempt(self, task: _Task) -> RecoveredClient:
        rest = self._service.create_rest_client()
        candidates = task.candidates or await list_candidates(rest, task.run_id)
        rejected: list[str] = []
        for checkpoint in in_order(task.policy.checkpoint_strategy, candidates):
            found = await validate(rest, checkpoint.path, task.spec, self._now())
            reason = found.reason
            if found.usable:
                await task.say(
                    RecoveryEventName.CHECKPOINT_SELECTED, task.run_id, path=checkpoint.path, step=checkpoint.step
                )
                restored = await self._restore(task, checkpoint)
                if not isinstance(restored, CrucibleError):
                    await task.say(RecoveryEventName.CLIENT_CREATED, task.run_id, new_run_id=restored.model_id)
                    return RecoveredClient(restored, checkpoint, task.policy.restore_optimizer)
                reason = str(restored)
            rejected.append(f"{checkpoint.path}: {reason}")
            await task.say(RecoveryEventName.CHECKPOINT_REJECTED, task.run_id, path=checkpoint.path, reason=reason)
        raise NoCheckpoint(f"no checkpoint of run {task.run_id} is usable: {'; '.join(rejected)}", backend="tinkex")

    async def _restore(self, task: _Task, checkpoint: CheckpointRef) -> "TrainingClient | CrucibleError":
        """A new run in the state of the checkpoint (some services load into nothing else), or the error that makes
        the checkpoint unusable. Raises what is not the checkpoint's fault."""
        spec = task.spec or await self._spec_of(checkpoint.path)
        # The old session may be what was lost.
        service = self._service.with_new_session()
        client = await service.create_lora_training_client_async(
            spec.base_model,
            rank=spec.lora.rank,
            seed=spec.lora.seed,
            train_unembed=spec.lora.train_unembed,
            train_mlp=spec.lora.train_mlp,
            train_attn=spec.lora.train_attn,
            user_metadata=dict(spec.user_metadata),
        )
        try:
            if task.policy.restore_optimizer:
                await client.load_state_with_optimizer(checkpoint.path)
            else:
                await client.load_state(checkpoint.path)
        except BaseException as error:
            await _abandon(client)
            if isinstance(error, CrucibleError) and blames_checkpoint(error):
                return error
            raise
        return client

    async def _spec_of(self, path: str) -> RunSpec:
        info = await self._service.create_rest_client().get_weights_info_by_tinker_path(path)
        lora = LoraSpec(
            rank=info.lora_rank or LoraSpec().rank,
            train_unembed=info.train_unembed is not False,
            train_mlp=info.train_mlp is not False,
            train_attn=info.train_attn is not False,
        )
        return RunSpec(base_model=info.base_model, lora=lora)


async def _abandon(client: "TrainingClient") -> None:
    """Free a run that came to nothing, if the service answers soon."""
    with contextlib.suppress(CrucibleError, TimeoutError):
        async with asyncio.timeout(10):
            await client.unload()
    with contextlib.suppress(CrucibleError, TimeoutError):
        await client.service.end_sessions()


def blames_checkpoint(error: CrucibleError) -> bool:
    """Whether a load failed because of the checkpoint (the next older may do), not because of the way to it.

    A load that the service accepted and then failed has ``category`` in its details, whatever its words.
    """
    return isinstance(error, CallerError) or error.code == "run_corrupted" or "category" in error.details
