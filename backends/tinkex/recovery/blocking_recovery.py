"""``BlockingRecovery``: recovery for scripts without an event loop."""

import asyncio
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from backends.tinkex.errors import BACKEND
from backends.tinkex.recovery.executor import RecoveredClient, RecoveryExecutor
from backends.tinkex.recovery.flag import is_flagged
from backends.tinkex.recovery.monitor import RecoveryMonitor
from crucible.errors import RunCorrupted
from crucible.recovery import RecoveryObserver, RecoveryPolicy

if TYPE_CHECKING:
    from backends.tinkex.client.service import ServiceClient
    from backends.tinkex.client.training.client import TrainingClient


class BlockingRecovery:
    """A monitor and an executor for code that blocks. They run on the service client's background thread.

    Use it as a context manager, with the service client that created the training clients. ``monitor_run`` adds a
    client to those that are polled; ``check`` raises RunCorrupted once a poll has found its run corrupted;
    ``recover`` returns a client of a new run. The policy's callbacks and ``observe`` are called on the background
    thread, where a blocking call of a client raises WrongLoop.
    """

    def __init__(
        self,
        service: "ServiceClient",
        policy: RecoveryPolicy | None = None,
        *,
        observe: RecoveryObserver | None = None,
    ) -> None:
        policy = policy or RecoveryPolicy(enabled=True)
        rest = service.create_rest_client()

        async def poll(run_id: str) -> bool:
            return await is_flagged(rest, run_id)

        self._runner = service.runner
        self._executor = RecoveryExecutor(service, policy, observe=observe)
        self._monitor = RecoveryMonitor(poll, self, policy=policy, observe=observe)
        self._corrupted: dict[str, str] = {}
        self._recoveries: dict[str, asyncio.Task[RecoveredClient]] = {}

    def monitor_run(self, client: "TrainingClient") -> None:
        """Poll the service for the mark of corruption on a client's run, at the policy's interval."""
        self._monitor.monitor_run(client.model_id, client)

    def stop_monitoring(self, client: "TrainingClient") -> bool:
        """Stop polling for a client's run; return whether it was polled."""
        return self._monitor.stop_monitoring(client.model_id)

    def check(self, client: "TrainingClient") -> None:
        """Raise RunCorrupted if a poll has found the client's run corrupted. No I/O."""
        reason = self._corrupted.get(client.model_id)
        if reason is not None:
            raise RunCorrupted(
                f"run {client.model_id}: {reason}",
                backend=BACKEND,
                details={"run_id": client.model_id, "detected_by": "flag"},
            )

    def recover(self, client: "TrainingClient", reason: str = "the caller recovers it") -> RecoveredClient:
        """Recover a client's run into a new one, which is polled from then on if the old one was. Blocks.

        Recovering the same client again returns the first outcome.

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: every attempt failed.
            AuthenticationFailed, OutOfCredit: a further attempt would fail too.
        """
        return self._runner.wait(self._recover(client, reason))

    def close(self) -> None:
        """Stop polling and cancel recoveries in progress. Blocks."""
        self._runner.wait(self._close())

    def take_over(self, run_id: str, client: Any, reason: str) -> None:
        """Record a corrupted run for ``check``; called by the monitor."""
        self._corrupted[run_id] = reason

    def __enter__(self) -> Self:
        self._runner.wait(self._monitor.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    async def _recover(self, client: "TrainingClient", reason: str) -> RecoveredClient:
        run_id = client.model_id
        running = self._recoveries.get(run_id)
        if running is None or (running.done() and (running.cancelled() or running.exception() is not None)):
            running = asyncio.ensure_future(self._executor.recover_run(run_id, client, reason))
            self._recoveries[run_id] = running
        watched = self._monitor.stop_monitoring(run_id) or run_id in self._corrupted
        recovered = await running
        if watched:
            self._corrupted.pop(run_id, None)
            self.monitor_run(recovered.client)
        return recovered

    async def _close(self) -> None:
        await self._monitor.__aexit__(None, None, None)
        await self._executor.close()
        for task in self._recoveries.values():
            task.cancel()
        await asyncio.gather(*self._recoveries.values(), return_exceptions=True)
