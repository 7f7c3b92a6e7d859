"""Maps a failure of a run to an action: one table, one pure function.

==========================================  =====================================================================
failure                                     action
==========================================  =====================================================================
timeout, unavailable, over capacity         replay with the same sequence numbers, after a backoff
failed at the service, and on record there  restore, after a backoff: a replay is answered with the same failure
answer lost or malformed                    replay if the model is alive and the service answers repeats from its
                                            record; else restore
run or session gone                         restore into a new run
corrupted, or a NaN or infinite loss        restore; if the same step corrupts again: fail, or skip its batch
out of credit                               pause until the account has credit
over capacity before there is a run         pause: the job waits in the queue, not in a worker
invalid input, credential refused           fail
==========================================  =====================================================================

A failure that would have led to a restore, and does not because recovery is off or exhausted, fences the run too: a
retry of the job then restores, instead of meeting the same failure again. So does a refused request behind which
others had been sent already.

Errors of this side (lease lost, store unavailable, stop requested) end the attempt without a decision.
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
    """The driver's reaction to a failure."""

    REPLAY = "replay"
    """Send the open intents again, with the same sequence numbers and bytes."""
    RESTORE = "restore"
    """Fence this remote run and restore the newest checkpoint into a new run."""
    SKIP_BATCH = "skip_batch"
    """Restore, and skip the step that corrupts every run."""
    PAUSE = "pause"
    """Pause the job, without counting the attempt."""
    FAIL = "fail"
    """End this attempt with the error; the queue's retry policy decides what follows."""


@dataclass(frozen=True, slots=True)
class Incident:
    """A failure with the facts that the decision depends on.

    ``health`` is the run's health as the service reports it; None if unknown. ``effect_unknown``: a request was
    sent whose effect is unknown. ``left_hole``: operations behind one that was not accepted may have been.
    ``failures`` counts failures since the last new step, this one included. ``times_poisoned`` counts the runs that
    were corrupted at this step, this one included. ``driving``: a run's operation failed, not the connection to
    one.
    """

    error: CrucibleError
    policy: RecoveryPolicy
    health: RunHealth | None = None
    replays: bool | None = None
    effect_unknown: bool = False
    failures: int = 1
    times_poisoned: int = 0
    driving: bool = True
    left_hole: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """An action, its reason, and the delay before it. ``error`` is raised if the action ends the attempt.
    ``poisoned``: the run is corrupted, however that was detected. ``fences``: the run must not be used again."""

    action: Action
    reason: str
    error: CrucibleError
    delay_ms: int = 0
    poisoned: bool = False
    fences: bool = False


_TRANSIENT = (RequestTimeout, BackendUnavailable, CapacityError)
_FINAL = (AuthenticationFailed, NoCheckpoint, RecoveryExhausted, PluginError)


def needs_health_check(error: CrucibleError) -> bool:
    """Return whether the run's health must be queried before ``decide``."""
    settled = (*_FINAL, *_TRANSIENT, OutOfCredit, RunGone, RunCorrupted)
    return isinstance(error, BackendError) and (error.on_record or not isinstance(error, settled))


def decide(incident: Incident) -> Decision:
    """Return the action for a failure, by the table of this module."""
    error, reason = incident.error, incident.error.message
    if isinstance(error, OutOfCredit) or (isinstance(error, CapacityError) and not incident.driving):
        return Decision(Action.PAUSE, reason, error)
    if not isinstance(error, BackendError) or isinstance(error, _FINAL):
        # a service that refuses a request may count its number as used, and run those that were sent behind it
        refused = incident.left_hole and not isinstance(error, BackendError)
        return Decision(Action.FAIL, reason, error, fences=refused or _on_record(incident))
    if isinstance(error, RunCorrupted) or _has_state(incident.health, RunState.CORRUPTED):
        return _poisoned(incident)
    if isinstance(error, RunGone) or _has_state(incident.health, RunState.GONE):
        return _restore(incident, reason)
    if _on_record(incident):
        return _restore(incident, reason)
    if isinstance(error, _TRANSIENT):
        return _retry(incident)
    return _effect_unknown(incident)


def _on_record(incident: Incident) -> bool:
    return incident.driving and incident.error.on_record


def _has_state(health: RunHealth | None, state: RunState) -> bool:
    return health is not None and health.state is state


def _retry(incident: Incident) -> Decision:
    if incident.effect_unknown and incident.replays is not True:
        return _restore(incident, f"{incident.error.message}; this service would execute a repeat again")
    if incident.failures > incident.policy.max_attempts:
        return Decision(
            Action.FAIL, f"{incident.error.message}, {incident.failures} times without progress", incident.error
        )
    # the first repeat waits too: the transport has just given up
    delay = max(incident.policy.backoff_before(incident.failures), incident.error.retry_after_ms or 0)
    return Decision(Action.REPLAY, incident.error.message, incident.error, delay)


def _effect_unknown(incident: Incident) -> Decision:
    lost = isinstance(incident.error, AnswerLost | MalformedAnswer)
    alive = _has_state(incident.health, RunState.ALIVE)
    # the record answers a failed operation with the same failure, so only a lost answer is worth a replay; an
    # answer that stays lost leads to a restore while attempts are left for it
    if lost and alive and incident.replays is True and incident.failures < max(incident.policy.max_attempts, 2):
        delay = incident.policy.backoff_before(incident.failures - 1)
        return Decision(Action.REPLAY, incident.error.message, incident.error, delay)
    return _restore(incident, incident.error.message)


def _poisoned(incident: Incident) -> Decision:
    restored = replace(_restore(incident, incident.error.message), poisoned=True)
    if incident.times_poisoned < 2 or restored.action is not Action.RESTORE:
        return restored
    if incident.policy.on_repeated_corruption == "skip_batch":
        return replace(restored, action=Action.SKIP_BATCH)
    error = RecoveryExhausted(
        f"the same step corrupted the run again after a restore ({incident.error.message}); check its batch and "
        "the learning rate, then retry the job, or set recovery.on_repeated_corruption to skip_batch",
        backend=incident.error.backend,
        details=incident.error.details,
    )
    return Decision(Action.FAIL, error.message, error, poisoned=True, fences=True)


def _restore(incident: Incident, reason: str) -> Decision:
    on_record = _on_record(incident)
    if not incident.policy.enabled:
        # every attempt would meet the same run: a retry by hand is a decision, one by the queue a waste
        final = incident.error.as_final(
            f"{reason}; recovery.enabled is false, so nothing was restored: nsai-work retry restores the newest "
            "checkpoint"
        )
        return Decision(Action.FAIL, final.message, final, fences=True)
    if incident.failures > incident.policy.max_attempts and on_record:
        # the service fails what it accepts, as with a full disk: the queue's longer delays may outlast that
        return Decision(Action.FAIL, reason, incident.error, fences=True)
    if incident.failures > incident.policy.max_attempts:
        error = RecoveryExhausted(
            f"{incident.policy.max_attempts} consecutive recoveries made no progress; the last failure: {reason}",
            backend=incident.error.backend,
            details=incident.error.details,
        )
        return Decision(Action.FAIL, error.message, error, fences=True)
    # a service that has just failed an operation needs time; one that lost a run does not
    delay_ms = incident.policy.backoff_before(incident.failures if on_record else incident.failures - 1)
    return Decision(Action.RESTORE, reason, incident.error, delay_ms)
