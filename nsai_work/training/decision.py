"""From what was seen to what is done: the one table of failures, as one pure function.

==========================================  =====================================================================
seen                                        done
==========================================  =====================================================================
timeout, unavailable, over capacity         the same requests again under the same sequence numbers, after a wait
the answer is lost, or makes no sense       the model lives and repeats are answered from the record: replay;
                                            else restore
the run or its session is gone              restore into a new run
corrupted, or a NaN or infinite loss        restore; the same step again: stop and ask, or skip its batch
out of credit                               pause: the worker waits until the account can pay
wrong input, refused credential             fail
==========================================  =====================================================================

Errors of our own side (a lost lease, a store that is away, a stop) are not decided here: they end the attempt.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    MalformedAnswer,
    NoCheckpoint,
    OutOfCredit,
    PluginError,
    RecoveryExhausted,
    RequestTimeout,
    RunCorrupted,
    RunGone,
)
from crucible.recovery import RecoveryPolicy
from crucible.training import RunHealth, RunState


class Action(StrEnum):
    """What is done about a failure."""

    REPLAY = "replay"
    """Send the open intents again: same sequence numbers, same bytes."""
    RESTORE = "restore"
    """Fence this remote run and bring the newest checkpoint back in a new one."""
    SKIP_BATCH = "skip_batch"
    """Restore, and leave out the step that poisons every run."""
    PAUSE = "pause"
    """Let the job wait; it is not its fault."""
    FAIL = "fail"
    """End this attempt with the error; the queue's retry policy decides what follows."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What is known when something has failed.

    ``health`` is the service's word on the run, None when it could not be asked. ``effect_unknown``: something was
    sent, and it is not known whether it took effect. ``incidents`` counts failures since the last step that was
    new, this one included. ``times_poisoned`` counts runs that were poisoned at this step, this one included.
    """

    error: CrucibleError
    policy: RecoveryPolicy
    health: RunHealth | None = None
    replays: bool | None = None
    effect_unknown: bool = False
    incidents: int = 1
    times_poisoned: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """What is done, why, and how long to wait before it. ``error`` ends the attempt where the action says so.
    ``poisoned``: the run is corrupted, however that was noticed."""

    action: Action
    reason: str
    error: CrucibleError
    delay_ms: int = 0
    poisoned: bool = False


_TRANSIENT = (RequestTimeout, BackendUnavailable, CapacityError)
_FINAL = (AuthenticationFailed, NoCheckpoint, RecoveryExhausted, PluginError)


def looks_at_health(error: CrucibleError) -> bool:
    """Whether the service is to be asked about the run before anything is decided."""
    settled = (*_FINAL, *_TRANSIENT, OutOfCredit, RunGone, RunCorrupted)
    return isinstance(error, BackendError) and not isinstance(error, settled)


def decide(seen: Seen) -> Decision:
    """What is to be done."""
    error, reason = seen.error, seen.error.message
    if isinstance(error, OutOfCredit):
        return Decision(Action.PAUSE, reason, error)
    if not isinstance(error, BackendError) or isinstance(error, _FINAL):
        return Decision(Action.FAIL, reason, error)
    if isinstance(error, RunCorrupted) or _says(seen.health, RunState.CORRUPTED):
        return _poisoned(seen)
    if isinstance(error, RunGone) or _says(seen.health, RunState.GONE):
        return _restore(seen, reason)
    if isinstance(error, _TRANSIENT):
        return _again(seen)
    return _effect_unknown(seen)


def _says(health: RunHealth | None, state: RunState) -> bool:
    return health is not None and health.state is state


def _again(seen: Seen) -> Decision:
    if seen.effect_unknown and seen.replays is not True:
        return _restore(seen, f"{seen.error.message}; this service would run a repeat again")
    if seen.incidents > seen.policy.max_attempts:
        return Decision(Action.FAIL, f"{seen.error.message}, {seen.incidents} times without progress", seen.error)
    # the first repeat waits too: the transport has just given up
    delay = max(seen.policy.backoff_before(seen.incidents), seen.error.retry_after_ms or 0)
    return Decision(Action.REPLAY, seen.error.message, seen.error, delay)


def _effect_unknown(seen: Seen) -> Decision:
    lost = isinstance(seen.error, AnswerLost | MalformedAnswer)
    alive = _says(seen.health, RunState.ALIVE)
    # an operation that failed is answered from the record as failed, so only a lost answer is worth a second look;
    # one that stays lost ends in a restore while there are attempts left for it
    if lost and alive and seen.replays is True and seen.incidents < max(seen.policy.max_attempts, 2):
        delay = seen.policy.backoff_before(seen.incidents - 1)
        return Decision(Action.REPLAY, seen.error.message, seen.error, delay)
    return _restore(seen, seen.error.message)


def _poisoned(seen: Seen) -> Decision:
    restored = replace(_restore(seen, seen.error.message), poisoned=True)
    if seen.times_poisoned < 2 or restored.action is not Action.RESTORE:
        return restored
    if seen.policy.on_repeated_corruption == "skip_batch":
        return replace(restored, action=Action.SKIP_BATCH)
    error = RecoveryExhausted(
        f"the same step poisoned the run again after a restore ({seen.error.message}); look at its batch and the "
        "learning rate, then retry the job, or set recovery.on_repeated_corruption to skip_batch",
        backend=seen.error.backend,
        details=seen.error.details,
    )
    return Decision(Action.FAIL, error.message, error, poisoned=True)


def _restore(seen: Seen, reason: str) -> Decision:
    if not seen.policy.enabled:
        return Decision(Action.FAIL, f"{reason}; recovery is not enabled", seen.error)
    if seen.incidents > seen.policy.max_attempts:
        error = RecoveryExhausted(
            f"{seen.policy.max_attempts} recoveries in a row brought no new step; the last failure: {reason}",
            backend=seen.error.backend,
            details=seen.error.details,
        )
        return Decision(Action.FAIL, error.message, error)
    return Decision(Action.RESTORE, reason, seen.error, seen.policy.backoff_before(seen.incidents - 1))
