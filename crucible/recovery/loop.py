"""The recovery loop: order the candidates, check each, restore the first usable one, retry with backoff."""

import inspect
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from crucible.errors import (
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CallerError,
    CrucibleError,
    NoCheckpoint,
    OutOfCredit,
    RecoveryExhausted,
)
from crucible.recovery.events import Announcer, RecoveryEventName
from crucible.recovery.policy import RecoveryPolicy
from crucible.runtime.waits import WaitCause, waiting
from crucible.training import CheckpointCheck, CheckpointRef

R = TypeVar("R")


def in_order(strategy: str, candidates: Sequence[CheckpointRef]) -> tuple[CheckpointRef, ...]:
    """Sort candidates, given newest first, by preference.

    ``latest``: newest to oldest. ``best_loss``: by ascending metric, equal ones newest first, those without a
    metric last. A path: that checkpoint alone.

    Raises:
        NoCheckpoint: there is no candidate, or none has that path.
    """
    if strategy == "latest":
        ordered = tuple(candidates)
    elif strategy == "best_loss":
        ordered = tuple(sorted(candidates, key=lambda ref: (ref.metric is None, ref.metric or 0.0)))
    else:
        ordered = tuple(ref for ref in candidates if ref.path == strategy)
    if not ordered:
        known = ", ".join(ref.path for ref in candidates[:5]) or "none"
        raise NoCheckpoint(f"no checkpoint for strategy {strategy!r}; known: {known}")
    return ordered


class UnusableCheckpoint(Exception):
    """A restore failed because of the checkpoint itself, so the loop rejects it and tries the next candidate."""


@dataclass(frozen=True, slots=True)
class Restored(Generic[R]):
    """A new run in the state of ``checkpoint``; ``run`` is the object that drives it."""

    run: R
    run_id: str
    checkpoint: CheckpointRef


class CheckpointSource(ABC, Generic[R]):
    """A backend's operations on checkpoints, as the loop needs them."""

    @abstractmethod
    async def candidates(self) -> Sequence[CheckpointRef]:
        """List the checkpoints to choose from, newest first."""

    @abstractmethod
    async def check(self, checkpoint: CheckpointRef) -> CheckpointCheck:
        """Check whether a checkpoint exists, has not expired, and fits the run."""

    @abstractmethod
    async def restore(self, checkpoint: CheckpointRef) -> Restored[R]:
        """Load a checkpoint into a new run.

        Raises:
            UnusableCheckpoint: the checkpoint is at fault.
            CrucibleError: something else is.
        """


@dataclass(frozen=True, slots=True)
class RecoveryLoop(Generic[R]):
    """A recovery of the run ``run_id``; ``old`` is the first argument of the policy's ``on_recovery``."""

    backend: str
    run_id: str
    reason: str
    policy: RecoveryPolicy
    source: CheckpointSource[R]
    announce: Announcer
    old: Any
    sleep: Callable[[float], Awaitable[object]]

    async def run(self) -> Restored[R]:
        """Recover, announce the outcome, and call the policy's ``on_recovery`` or ``on_failure``.

        Raises:
            NoCheckpoint: there is none, or none is usable.
            RecoveryExhausted: every attempt failed.
            AuthenticationFailed, OutOfCredit, CallerError: a further attempt would fail too.
        """
        try:
            restored = await self._retry()
        except CrucibleError as error:
            exhausted = isinstance(error, RecoveryExhausted)
            name = RecoveryEventName.EXHAUSTED if exhausted else RecoveryEventName.FAILED
            await self.announce(name, self.run_id, code=error.code, reason=str(error))
            await self._call("on_failure", self.policy.on_failure, self.run_id, error.code)
            raise
        await self.announce(
            RecoveryEventName.COMPLETED,
            self.run_id,
            new_run_id=restored.run_id,
            checkpoint=restored.checkpoint.path,
        )
        await self._call("on_recovery", self.policy.on_recovery, self.old, restored.run, restored.checkpoint)
        return restored

    async def _call(self, name: str, callback: Callable[..., object] | None, *arguments: object) -> None:
        if callback is None:
            return
        try:
            answer = callback(*arguments)
            if inspect.isawaitable(answer):
                await answer
        except Exception as error:
            await self.announce(
                RecoveryEventName.CALLBACK_FAILED,
                self.run_id,
                callback=name,
                reason=f"{type(error).__name__}: {error}",
            )

    async def _retry(self) -> Restored[R]:
        last: CrucibleError | None = None
        for attempt in range(self.policy.max_attempts):
            wait_ms = max(self.policy.backoff_before(attempt), last.retry_after_ms or 0 if last else 0)
            if wait_ms:
                with waiting() as wait:
                    cause = WaitCause.OTHER if last is None else WaitCause.of(last)
                    wait.because(self._why_waiting(attempt, wait_ms, last), cause)
                    await self.sleep(wait_ms / 1000)
            await self.announce(RecoveryEventName.STARTED, self.run_id, attempt=attempt, reason=self.reason)
            try:
                return await self._attempt(is_last=attempt == self.policy.max_attempts - 1)
            except (NoCheckpoint, AuthenticationFailed, OutOfCredit, CallerError):
                raise
            except BackendError as error:
                last = error
                await self.announce(
                    RecoveryEventName.FAILED, self.run_id, attempt=attempt, code=error.code, reason=str(error)
                )
        attempts = self.policy.max_attempts
        raise RecoveryExhausted(
            f"run {self.run_id} was not recovered in {attempts} attempts; last error: {last}",
            backend=self.backend,
            details={"run_id": self.run_id, "attempts": attempts},
        ) from last

    def _why_waiting(self, attempt: int, wait_ms: int, last: CrucibleError | None) -> str:
        after = self.reason if last is None else f"attempt {attempt} failed: {last.message}"
        return f"recovery of run {self.run_id}, next attempt after {wait_ms / 1000:g} s: {after}"

    async def _attempt(self, *, is_last: bool) -> Restored[R]:
        """Restore the first usable candidate.

        Candidates whose restore failed are rejected once another one is restored, or in the last attempt: until
        then the service may be at fault.
        """
        rejected: list[str] = []
        failed: list[tuple[CheckpointRef, str]] = []
        for checkpoint in in_order(self.policy.checkpoint_strategy, await self.source.candidates()):
            check = await self.source.check(checkpoint)
            if not check.usable:
                rejected.append(await self._reject(checkpoint, check.reason))
                continue
            await self.announce(
                RecoveryEventName.CHECKPOINT_SELECTED, self.run_id, path=checkpoint.path, step=checkpoint.step
            )
            try:
                restored = await self.source.restore(checkpoint)
            except UnusableCheckpoint as unusable:
                failed.append((checkpoint, str(unusable)))
                continue
            for unrestored, reason in failed:
                await self._reject(unrestored, reason)
            await self.announce(RecoveryEventName.CLIENT_CREATED, self.run_id, new_run_id=restored.run_id)
            return restored
        if failed and not is_last:
            reasons = "; ".join(f"{checkpoint.path}: {reason}" for checkpoint, reason in failed)
            raise BackendUnavailable(f"no checkpoint could be restored: {reasons}", backend=self.backend)
        rejected += [await self._reject(checkpoint, reason) for checkpoint, reason in failed]
        raise NoCheckpoint(
            f"no checkpoint of run {self.run_id} is usable: {'; '.join(rejected)}", backend=self.backend
        )

    async def _reject(self, checkpoint: CheckpointRef, reason: str | None) -> str:
        await self.announce(RecoveryEventName.CHECKPOINT_REJECTED, self.run_id, path=checkpoint.path, reason=reason)
        return f"{checkpoint.path}: {reason}"
