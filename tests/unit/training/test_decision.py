"""The table of failures and actions."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible.errors import (
    AnswerLost,
    AuthenticationFailed,
    BackendError,
    BackendUnavailable,
    Canceled,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    MalformedAnswer,
    NameTaken,
    NoCheckpoint,
    NotFound,
    OutOfCredit,
    PluginError,
    RecoveryExhausted,
    RequestTimeout,
    RunCorrupted,
    RunGone,
    Unsupported,
)
from crucible.recovery import RecoveryPolicy
from crucible.training import RunHealth, RunState
from nsai_work.training.restart.decision import Action, Incident, decide, needs_health_check

ON = RecoveryPolicy(enabled=True, max_attempts=3, backoff_ms=1000)
OFF = RecoveryPolicy()
SKIP = RecoveryPolicy(enabled=True, on_repeated_corruption="skip_batch")
ALIVE, GONE, CORRUPTED = (RunHealth(state=state) for state in RunState)


def recorded(kind: type[CrucibleError]) -> CrucibleError:
    """A failure that the service keeps on record."""
    return kind("x", details={"on_record": True})


TABLE: dict[str, tuple[Incident, Action]] = {
    # timeout, reset, 408, 5xx, 429: transient
    "timeout": (Incident(RequestTimeout("x"), ON, replays=True), Action.REPLAY),
    "unavailable": (Incident(BackendUnavailable("x"), ON, replays=True, effect_unknown=True), Action.REPLAY),
    "over capacity": (Incident(CapacityError("x"), ON, replays=True), Action.REPLAY),
    "unavailable, nothing unknown": (Incident(BackendUnavailable("x"), ON, replays=False), Action.REPLAY),
    "unavailable, unknown, no replay": (
        Incident(BackendUnavailable("x"), ON, replays=False, effect_unknown=True),
        Action.RESTORE,
    ),
    "unavailable, unknown, not known": (
        Incident(BackendUnavailable("x"), ON, replays=None, effect_unknown=True),
        Action.RESTORE,
    ),
    "unavailable for too long": (Incident(BackendUnavailable("x"), ON, replays=True, failures=4), Action.FAIL),
    "unavailable without recovery": (Incident(BackendUnavailable("x"), OFF, replays=True), Action.REPLAY),
    # 410, an unknown future: the effect is not known
    "answer lost, alive": (Incident(AnswerLost("x"), ON, health=ALIVE, replays=True), Action.REPLAY),
    "answer lost, alive, no replay": (Incident(AnswerLost("x"), ON, health=ALIVE, replays=False), Action.RESTORE),
    "answer lost, alive, not known": (Incident(AnswerLost("x"), ON, health=ALIVE), Action.RESTORE),
    "answer lost again and again": (
        Incident(AnswerLost("x"), ON, health=ALIVE, replays=True, failures=3),
        Action.RESTORE,
    ),
    "answer lost, gone": (Incident(AnswerLost("x"), ON, health=GONE, replays=True), Action.RESTORE),
    "answer lost, corrupted": (Incident(AnswerLost("x"), ON, health=CORRUPTED, replays=True), Action.RESTORE),
    "answer lost, cannot be asked": (Incident(AnswerLost("x"), ON, replays=True), Action.RESTORE),
    "answer makes no sense": (Incident(MalformedAnswer("x"), ON, health=ALIVE, replays=True), Action.REPLAY),
    "operation failed": (Incident(BackendError("x"), ON, health=ALIVE, replays=True), Action.RESTORE),
    # the service accepted it, failed it, and answers a repeat with the same failure
    "on record": (Incident(recorded(BackendUnavailable), ON, health=ALIVE, replays=True), Action.RESTORE),
    "on record, corrupted": (
        Incident(recorded(BackendUnavailable), SKIP, health=CORRUPTED, times_poisoned=2),
        Action.SKIP_BATCH,
    ),
    "on record too often": (Incident(recorded(BackendUnavailable), ON, replays=True, failures=4), Action.FAIL),
    "on record without recovery": (Incident(recorded(BackendUnavailable), OFF, replays=True), Action.FAIL),
    "on record, no run": (Incident(recorded(BackendUnavailable), OFF, driving=False), Action.REPLAY),
    "on record, the user's fault": (Incident(recorded(InvalidRequest), ON), Action.FAIL),
    # 404, session ended
    "gone": (Incident(RunGone("x"), ON), Action.RESTORE),
    "gone without recovery": (Incident(RunGone("x"), OFF), Action.FAIL),
    "gone too often": (Incident(RunGone("x"), ON, failures=4), Action.FAIL),
    # corrupted, NaN
    "corrupted": (Incident(RunCorrupted("x"), ON, times_poisoned=1), Action.RESTORE),
    "corrupted without recovery": (Incident(RunCorrupted("x"), OFF, times_poisoned=1), Action.FAIL),
    "the same step again": (Incident(RunCorrupted("x"), ON, times_poisoned=2), Action.FAIL),
    "the same step again, skip": (Incident(RunCorrupted("x"), SKIP, times_poisoned=2), Action.SKIP_BATCH),
    "failed, and found corrupted": (
        Incident(BackendError("x"), SKIP, health=CORRUPTED, times_poisoned=2),
        Action.SKIP_BATCH,
    ),
    "skips that lead nowhere": (Incident(RunCorrupted("x"), SKIP, times_poisoned=2, failures=4), Action.FAIL),
    # 402
    "out of credit": (Incident(OutOfCredit("x"), ON, replays=True), Action.PAUSE),
    "out of credit without recovery": (Incident(OutOfCredit("x"), OFF), Action.PAUSE),
    # 400, 422, 401, 403, and what sending again cannot help
    "wrong input": (Incident(InvalidRequest("x"), ON), Action.FAIL),
    "unsupported": (Incident(Unsupported("x"), ON), Action.FAIL),
    "not found": (Incident(NotFound("x"), ON), Action.FAIL),
    "a name that is not ours": (Incident(NameTaken("x"), ON), Action.FAIL),
    "credential": (Incident(AuthenticationFailed("x"), ON), Action.FAIL),
    "no checkpoint": (Incident(NoCheckpoint("x"), ON), Action.FAIL),
    "exhausted": (Incident(RecoveryExhausted("x"), ON), Action.FAIL),
    "plug-in": (Incident(PluginError("x"), ON), Action.FAIL),
    "canceled": (Incident(Canceled("x"), ON), Action.FAIL),
}


@pytest.mark.parametrize("case", TABLE)
def test_the_table(case: str) -> None:
    """Each row of the table, and the cases between them."""
    seen, action = TABLE[case]
    assert decide(seen).action is action


@pytest.mark.parametrize(
    ("seen", "delays"),
    [
        (RunGone("x"), [0, 1000, 2000]),
        (BackendUnavailable("x"), [1000, 2000, 4000]),
        (CapacityError("x", retry_after_ms=3000), [3000, 3000, 4000]),
    ],
    ids=["gone", "unavailable", "told when"],
)
def test_waits_grow(seen: CrucibleError, delays: list[int]) -> None:
    """A restore starts at once, a replay backs off, and never less than the service's retry-after."""
    made = [decide(Incident(seen, ON, replays=True, failures=count)).delay_ms for count in (1, 2, 3)]
    assert made == delays


@pytest.mark.parametrize(
    "error", [RunCorrupted("x"), RunGone("x"), AnswerLost("x"), recorded(BackendUnavailable)], ids=lambda e: e.code
)
def test_without_recovery_a_lost_run_costs_one_attempt(error: CrucibleError) -> None:
    """No attempt of the queue could end otherwise; the run is fenced, so that a retry by hand restores."""
    decision = decide(Incident(error, OFF))
    assert (decision.action, decision.fences) == (Action.FAIL, True)
    assert type(decision.error) is type(error)
    assert not decision.error.retryable
    assert not decision.error.failure().retryable
    assert "nsai-work retry" in decision.error.message
    assert error.retryable, "the original is unchanged"


@pytest.mark.parametrize(
    ("incident", "fences"),
    [
        (Incident(RunCorrupted("x"), ON, times_poisoned=2), True),
        (Incident(RunGone("x"), ON, failures=4), True),
        (Incident(recorded(BackendUnavailable), ON, failures=4), True),
        (Incident(recorded(InvalidRequest), ON), True),
        (Incident(recorded(InvalidRequest), ON, driving=False), False),
        (Incident(InvalidRequest("x"), ON), False),
        (Incident(BackendUnavailable("x"), ON, replays=True, failures=4), False),
        (Incident(AuthenticationFailed("x"), ON), False),
    ],
    ids=[
        "poisoned again",
        "gone too often",
        "on record",
        "user's, on record",
        "user's, no run",
        "user's",
        "away",
        "credential",
    ],
)
def test_a_run_that_cannot_be_used_again_is_fenced_when_the_attempt_fails(incident: Incident, fences: bool) -> None:
    decision = decide(incident)
    assert (decision.action, decision.fences) == (Action.FAIL, fences)


def test_a_failure_on_record_waits_before_each_restore_and_is_left_to_the_queue() -> None:
    """The service may be out of disk for a while: the last error is retryable."""
    error = recorded(BackendUnavailable)
    assert [decide(Incident(error, ON, failures=count)).delay_ms for count in (1, 2, 3)] == [1000, 2000, 4000]
    assert decide(Incident(error, ON, failures=4)).error is error


def test_the_end_names_the_way_out() -> None:
    """The error is not retryable, and names the user's options."""
    decision = decide(Incident(RunCorrupted("loss is nan"), ON, times_poisoned=2))
    assert isinstance(decision.error, RecoveryExhausted)
    assert not decision.error.retryable
    assert "skip_batch" in decision.error.message
    assert "loss is nan" in decision.error.message


@pytest.mark.parametrize(
    ("error", "looks"),
    [
        (AnswerLost("x"), True),
        (BackendError("x"), True),
        (RunGone("x"), False),
        (RunCorrupted("x"), False),
        (BackendUnavailable("x"), False),
        (recorded(BackendUnavailable), True),
        (OutOfCredit("x"), False),
        (InvalidRequest("x"), False),
    ],
)
def test_the_service_is_asked_only_when_it_matters(error: CrucibleError, looks: bool) -> None:
    """A conclusive error needs no health check."""
    assert needs_health_check(error) is looks


ERRORS = (AnswerLost, BackendError, BackendUnavailable, RunGone, RunCorrupted, MalformedAnswer, RequestTimeout)


@given(
    error=st.sampled_from(ERRORS),
    enabled=st.booleans(),
    health=st.sampled_from([None, ALIVE, GONE, CORRUPTED]),
    replays=st.sampled_from([None, True, False]),
    effect_unknown=st.booleans(),
    failures=st.integers(1, 10),
    poisoned=st.integers(0, 5),
)
def test_what_may_run_twice_is_never_sent_twice(
    error: type[CrucibleError],
    enabled: bool,
    health: RunHealth | None,
    replays: bool | None,
    effect_unknown: bool,
    failures: int,
    poisoned: int,
) -> None:
    """For any incident: no replay of an unknown effect unless repeats are known to be safe, no restore that the
    policy does not allow, and a failure after max_attempts."""
    policy = RecoveryPolicy(enabled=enabled, max_attempts=3)
    decision = decide(Incident(error("x"), policy, health, replays, effect_unknown, failures, poisoned))
    if decision.action is Action.REPLAY:
        assert replays or (not effect_unknown and not issubclass(error, AnswerLost))
    if decision.action in (Action.RESTORE, Action.SKIP_BATCH):
        assert enabled
    if failures > 3:
        assert decision.action is Action.FAIL
