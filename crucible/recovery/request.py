"""The input and the outcome of a recovery."""

from dataclasses import dataclass

from crucible.recovery.policy import RecoveryPolicy
from crucible.training import CheckpointRef, LiveRun, RunRef, RunSpec


@dataclass(frozen=True, slots=True)
class RecoveryRequest:
    """A failed run and the checkpoints to recover it from.

    ``candidates`` are the caller's verified checkpoints, newest first; without any, the backend lists its own.
    """

    failed: RunRef
    spec: RunSpec
    reason: str
    policy: RecoveryPolicy
    candidates: tuple[CheckpointRef, ...] = ()


@dataclass(frozen=True, slots=True)
class RecoveredRun:
    """A new remote run in the state of ``checkpoint``.

    ``optimizer_requested`` says whether the optimizer's state was requested too; whether the service restored it
    is for the caller to prove by the repeated steps.
    """

    run: LiveRun
    checkpoint: CheckpointRef
    optimizer_requested: bool
