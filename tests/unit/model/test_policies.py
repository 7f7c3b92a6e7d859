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
    return [
        SavedCheckpoint(f"c{step}", step, draw(metrics), draw(st.booleans()), draw(st.booleans())) for step in steps
    ]


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


def expected_to_stay(policy: CheckpointPolicy, saved: list[SavedCheckpoint]) -> set[str]:
    """What the documentation promises, written down again."""
    newest_first = sorted(saved, key=lambda item: -item.step)
    stays = {item.name for item in saved if item.promoted} | {item.name for item in newest_first[:1]}
    best = policy.best(saved)
    if policy.save_best and best is not None:
        stays.add(best.name)
    match policy.strategy:
        case CheckpointStrategy.STEPS:
            stays |= {item.name for item in newest_first[: policy.keep_last]}
        case CheckpointStrategy.EPOCH:
            stays |= {item.name for item in [each for each in newest_first if each.ends_epoch][: policy.keep_last]}
        case CheckpointStrategy.BEST:
            left = newest_first
            for _ in range(min(policy.keep_last, len(left))):
                chosen = policy.best(left) or left[0]
                stays.add(chosen.name)
                left = [item for item in left if item != chosen]
        case CheckpointStrategy.ALL:
            stays |= {item.name for item in saved}
        case CheckpointStrategy.LAST:
            pass
    return stays


@given(checkpoint_policies, saved_checkpoints())
def test_the_strategy_decides_what_is_kept(policy: CheckpointPolicy, saved: list[SavedCheckpoint]) -> None:
    """What a recovery would need, what is promoted and what is best stays, whatever the policy."""
    doomed = policy.to_delete(saved)

    assert len(set(doomed)) == len(doomed)
    assert {item.name for item in saved} - {item.name for item in doomed} == expected_to_stay(policy, saved)
    assert [item.step for item in doomed] == sorted((item.step for item in doomed), reverse=True)
    if saved:
        assert max(saved, key=lambda item: item.step) not in doomed
    if policy.save_best or policy.strategy is CheckpointStrategy.BEST:
        assert policy.best(saved) not in doomed


@given(checkpoint_policies, st.integers(1, 120), st.integers(1, 50), st.lists(metrics, min_size=1, max_size=20))
def test_at_any_step_a_recovery_finds_a_state_no_older_than_save_every(
    policy: CheckpointPolicy, total: int, per_epoch: int, values: list[float | None]
) -> None:
    """Every strategy, with a metric, without one, with NaN, and a corruption at any step."""
    saved: list[SavedCheckpoint] = []
    for step in range(1, total + 1):
        newest = max((item.step for item in saved), default=0)
        assert step - newest <= policy.save_every, "corrupted in this step, before it can be saved"
        if policy.should_save(StepFacts(step=step, total_steps=total, steps_per_epoch=per_epoch)):
            metric = values[step % len(values)]
            saved.append(SavedCheckpoint(f"c{step}", step, metric, ends_epoch=step % per_epoch == 0))
            saved = [item for item in saved if item not in policy.to_delete(saved)]
    assert saved[-1].step == total


@given(checkpoint_policies, saved_checkpoints())
def test_nothing_beats_the_best(policy: CheckpointPolicy, saved: list[SavedCheckpoint]) -> None:
    """No other checkpoint has a better metric; NaN and a missing metric are never best."""
    best = policy.best(saved)
    assert not any(policy.is_better(item.metric, best.metric if best else None) for item in saved)


@given(checkpoint_policies, st.integers(1, 300), st.integers(1, 50), st.data())
def test_the_last_step_is_always_saved(
    policy: CheckpointPolicy, total: int, per_epoch: int, data: st.DataObject
) -> None:
    """Every strategy saves at the end, and the interval is kept to; those of epochs save their ends too."""
    step = data.draw(st.integers(1, total))
    facts = StepFacts(step=step, total_steps=total, steps_per_epoch=per_epoch)

    assert policy.should_save(StepFacts(total, total, per_epoch))
    due = step == total or step % policy.save_every == 0
    if policy.strategy in (CheckpointStrategy.EPOCH, CheckpointStrategy.ALL):
        due = due or step % per_epoch == 0
    assert policy.should_save(facts) == due
