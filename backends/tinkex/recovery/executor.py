"""``RecoveryExecutor``: recovers runs of a Tinker service, a bounded number at a time."""

import asyncio
import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from backends.tinkex.errors import BACKEND
from backends.tinkex.recovery.checkpoints import ServiceCheckpoints
from backends.tinkex.recovery.monitor import Sleep
from crucible.errors import CallerError, CrucibleError
from crucible.recovery import (
    Announcer,
    RecoveryEventName,
    RecoveryLoop,
    RecoveryObserver,
    RecoveryPolicy,
    RecoveryRequest,
)
from crucible.training import CheckpointRef

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training.client import TrainingClient


_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RecoveredClient:
    """A client of a new remote run that holds the state of ``checkpoint``."""

    client: "TrainingClient"
    checkpoint: CheckpointRef
    optimizer_requested: bool


class RecoveryExecutor:
    """Runs recoveries, at most ``max_concurrent`` at once; further ones wait in order."""

    def __init__(
        self,
        service: "ServiceClient",
        policy: RecoveryPolicy | None = None,
        *,
        max_concurrent: int = 4,
        observe: RecoveryObserver | None = None,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        if max_concurrent < 1:
            raise CallerError(f"max_concurrent: {max_concurrent} is not allowed; at least 1", backend=BACKEND)
        self._service = service
        self._policy = policy or RecoveryPolicy(enabled=True)
        self._slots = asyncio.Semaphore(max_concurrent)
        self._observe = observe
        self._sleep = sleep
        self._tasks: set[asyncio.Task[None]] = set()
        self._origins: dict[str, str] = {}

    async def recover(
        self, request: RecoveryRequest, *, observe: RecoveryObserver | None = None, old: Any = None
    ) -> RecoveredClient:
        """Recover a run. ``old``, by default the failed run's ref, is the first argument of ``on_recovery``.

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: every attempt failed.
            AuthenticationFailed, OutOfCredit: a further attempt would fail too.
        """
        run_id, policy = request.failed.run_id, request.policy
        checkpoints = ServiceCheckpoints(self._service, run_id, policy, spec=request.spec, known=request.candidates)
        old = request.failed if old is None else old
        return await self._recover(checkpoints, request.reason, old, observe or self._observe)

    async def recover_run(self, run_id: str, client: Any, reason: str) -> RecoveredClient:
        """Recover a run with this executor's policy, from the checkpoints that the service lists for it and for the
        runs that it continues. ``client`` is the first argument of ``on_recovery``. Raises as ``recover``."""
        checkpoints = ServiceCheckpoints(self._service, run_id, self._policy, origins=self._origins)
        recovered = await self._recover(checkpoints, reason, client, self._observe)
        self._origins[recovered.client.model_id] = run_id
        return recovered

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        """Recover a run in the background, as ``recover_run`` does. The outcome is reported by events and by the
        policy's ``on_recovery`` and ``on_failure``."""
        task = asyncio.get_running_loop().create_task(self._recover_quietly(run_id, client, reason))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def wait(self) -> None:
        """Wait until every recovery in the background has ended."""
        while self._tasks:
            await asyncio.wait(set(self._tasks))

    async def close(self) -> None:
        """Cancel the recoveries in the background."""
        tasks = set(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _recover_quietly(self, run_id: str, client: Any, reason: str) -> None:
        try:
            await self.recover_run(run_id, client, reason)
        except CrucibleError as error:
            _log.warning("run %s was not recovered: %s", run_id, error)
        except Exception as error:
            _log.exception("the recovery of run %s broke", run_id)
            reason = f"{type(error).__name__}: {error}"
            announce = Announcer(BACKEND, self._observe)
            await announce(RecoveryEventName.FAILED, run_id, code=CrucibleError.code, reason=reason)

    async def _recover(
        self, checkpoints: ServiceCheckpoints, reason: str, old: Any, observe: RecoveryObserver | None
    ) -> RecoveredClient:
        loop = RecoveryLoop(
            backend=BACKEND,
            run_id=checkpoints.run_id,
            reason=reason,
            policy=checkpoints.policy,
            source=checkpoints,
            announce=Announcer(BACKEND, observe),
            old=old,
            sleep=self._sleep,
        )
        async with self._slots:
            restored = await loop.run()
        return RecoveredClient(restored.run, restored.checkpoint, checkpoints.policy.restore_optimizer)
