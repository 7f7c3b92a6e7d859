"""Retry and checkpoint policies: their answers stay within bounds for any facts."""

from hypothesis import given
from hypothesis import strategies as st

from crucible.errors import ErrorCategory, Failure
from nsai_work.policies import (
    CheckpointPolicy,
    CheckpointStrategy,
    RetryPolicy,
    SavedCheckpoint,
    StepFacts,
)
from tests.strategies import retry_policies

checkpoint_policies = st.builds(
    CheckpointPolicy,
    strategy=st.sampled_from(CheckpointStrategy),
    save_every=st.integers(1, 50),
    keep_last=st.integers(1, 5),
    save_best=st.booleans(),
    best_mode=st.sampled_from(["min", "max"]),
)
metrics = st.none() | st.floats(allow_nan=True, allow_infinity=True)


@st.composite
def saved_checkpoints(draw: st.DrawFn) -> list[SavedCheckpoint]:
    """Checkpoints of different steps, in any order."""
    steps = draw(st.lists(st.integers(0, 1000), unique=True, max_size=12))
    return [SavedCheckpoint(f"c{step}", step, draw(metrics), draw(st.booleans())) for step in steps]


@given(retry_policies, st.integers(-5, 10**9), st.floats(0, 1, exclude_max=True))
def test_delays_stay_within_bounds(policy: RetryPolicy, attempt: int, jitter: float) -> None:
    """The delay of any attempt is between zero and the maximum."""
    assert 0 <= policy.delay_ms(attempt, lambda: jitter) <= policy.max_delay_ms


@given(retry_policies, st.integers(1, 200))
def test_delays_never_shrink(policy: RetryPolicy, attempt: int) -> None:
    """Without jitter, a later attempt waits at least as long."""
    steady = policy.model_copy(update={"jitter": False})
    assert steady.delay_ms(attempt, lambda: 0.0) <= steady.delay_ms(attempt + 1, lambda: 0.0)


@given(retry_policies, st.integers(1, 20_000), st.booleans(), st.sampled_from(["timeout", "strange"]))
def test_no_attempt_beyond_the_last(policy: RetryPolicy, attempt: int, retryable: bool, code: str) -> None:
    """A retry needs a retryable failure that the policy lists, and an attempt that is left."""
    failure = Failure(category=ErrorCategory.BACKEND, code=code, message="m", retryable=retryable)

    decision = policy.decide(failure, attempt, lambda: 0.5)

    assert decision.retry == (retryable and code == "timeout" and attempt < policy.max_attempts)


@given(retry_policies, st.integers(0, 10**6))
def test_a_services_own_delay_is_honoured(policy: RetryPolicy, retry_after_ms: int) -> None:
    """The delay is never shorter than the service requires."""
    failure = Failure(
        category=ErrorCategory.QUOTA, code="capacity", message="m", retryable=True, retry_after_ms=retry_after_ms
    )
    decision = policy.decide(failure, 1, lambda: 0.0)
    if decision.retry:
        assert decision.delay_ms >= retry_after_ms


@given(checkpoint_policies, saved_checkpoints())
def test_the_newest_and_the_best_are_never_deleted(policy: CheckpointPolicy, saved: list[SavedCheckpoint]) -> None:
    """The checkpoint for a recovery, promoted checkpoints and the best one are kept under any policy."""
    doomed = policy.to_delete(saved)

    assert len(set(doomed)) == len(doomed)
    assert set(doomed) <= set(saved)
    assert not any(item.promoted for item in doomed)
    newest = sorted(saved, key=lambda item: item.step)[-policy.keep_last :]
    assert not set(newest) & set(doomed)
    best = policy.best(saved)
    if policy.save_best or policy.strategy is CheckpointStrategy.BEST:
        assert best not in doomed


@given(checkpoint_policies, saved_checkpoints())
def test_nothing_beats_the_best(policy: CheckpointPolicy, saved: list[SavedCheckpoint]) -> None:
    """No other checkpoint has a better metric; NaN and a missing metric are never best."""
    best = policy.best(saved)
    assert not any(policy.is_better(item.metric, best.metric if best else None) for item in saved)


@given(checkpoint_policies, st.integers(1, 300), st.integers(1, 50), st.data())
def test_the_last_step_is_always_saved(
    policy: CheckpointPolicy, total: int, per_epoch: int, data: st.DataObject
) -> None:
    """Every strategy saves at the last step, and keeps to its interval."""
    step = data.draw(st.integers(1, total))
    facts = StepFacts(step=step, total_steps=total, steps_per_epoch=per_epoch, metric=1.0, best_metric=None)

    assert policy.should_save(StepFacts(total, total, per_epoch))
    if policy.strategy is CheckpointStrategy.STEPS:
        assert policy.should_save(facts) == (step == total or step % policy.save_every == 0)
    if policy.strategy is CheckpointStrategy.LAST:
        assert policy.should_save(facts) == (step == total)
