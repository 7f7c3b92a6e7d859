"""Base class of backends that train in this process: runs, recovery and checkpoints."""

import asyncio
from abc import abstractmethod
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final, Generic, TypeVar

from backends.local.checkpoints import CheckpointPath, CheckpointStore
from backends.local.engine import Engine
from backends.local.recovery import LocalRecovery, check
from backends.local.run import HOSTED_RUNS, HostedRun
from backends.local.validation import LOCAL_POLICY_LOSSES, LOSSES
from crucible.backend import TrainingBackend, no_report
from crucible.completion import Completion
from crucible.errors import RunCorrupted, RunGone
from crucible.prompt import Prompt
from crucible.recovery import RecoveredRun, RecoveryObserver, RecoveryRequest
from crucible.stream import collect
from crucible.training import CheckpointCheck, LiveRun, RunRef, RunSpec

E = TypeVar("E", bound=Engine)

OPTIONS: Final = ("temperature", "max_tokens", "top_p", "top_k", "stop", "seed", "top_logprobs")
"""The prompt options that :func:`backends.local.generation.generate` supports."""


class LocalBackend(TrainingBackend, Generic[E]):
    """Runs live in this process, checkpoints in a local folder. Subclasses set ``_checkpoints``."""

    losses: ClassVar[tuple[str, ...]] = LOSSES
    policy_losses: ClassVar[tuple[str, ...]] = LOCAL_POLICY_LOSSES
    metrics: ClassVar[tuple[str, ...]] = ("grad_norm",)
    _checkpoints: CheckpointStore[E]

    @abstractmethod
    def _drive(self, run: HostedRun, next_seq_id: int = 1) -> LiveRun:
        """Return a handle that drives a run."""

    def _new_run(self, engine: E) -> LiveRun:
        return self._drive(HOSTED_RUNS.new(engine, self.name))

    async def complete(self, prompt: Prompt) -> Completion:
        return await collect(self.stream(prompt))

    async def attach(self, ref: RunRef, *, next_seq_id: int) -> LiveRun:
        run = HOSTED_RUNS.get(ref.run_id)
        if run is None:
            raise RunGone(f"run {ref.run_id} was in another process, or was closed", backend=self.name)
        if run.engine.corrupted:
            raise RunCorrupted(f"run {ref.run_id} is corrupted", backend=self.name)
        return self._drive(run, next_seq_id)

    async def recover(self, request: RecoveryRequest, *, observe: RecoveryObserver) -> RecoveredRun:
        return await LocalRecovery(request, self._checkpoints, observe, self._new_run).run()

    async def check_checkpoint(self, path: str, spec: RunSpec) -> CheckpointCheck:
        return check(path, spec, self._checkpoints)

    async def delete_checkpoint(self, path: str) -> None:
        await asyncio.to_thread(self._checkpoints.delete, CheckpointPath.parse(path, self.name))

    async def download_checkpoint(
        self, path: str, folder: Path, *, max_bytes: int, report: Callable[[int, int | None], None] = no_report
    ) -> None:
        checkpoint = CheckpointPath.parse(path, self.name)
        await asyncio.to_thread(self._checkpoints.export, checkpoint, folder, max_bytes=max_bytes, report=report)

    async def keep_checkpoint(self, path: str) -> None:
        await asyncio.to_thread(self._checkpoints.keep, CheckpointPath.parse(path, self.name))
