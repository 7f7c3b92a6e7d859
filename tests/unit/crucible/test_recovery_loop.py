"""The recovery loop: order, checks, rejections, retries, and the events of each."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from crucible.errors import (
    AuthenticationFailed,
    BackendUnavailable,
    CapacityError,
    CrucibleError,
    InvalidRequest,
    NoCheckpoint,
    OutOfCredit,
    RecoveryExhausted,
)
from crucible.recovery import (
    Announcer,
    CheckpointSource,
    RecoveryEvent,
    RecoveryLoop,
    RecoveryPolicy,
    Restored,
    UnusableCheckpoint,
    in_order,
)
from crucible.runtime.waits import Wait, observed
from crucible.training import CheckpointCheck, CheckpointRef

NEW = CheckpointRef(path="x://r/weights/3", name="3", step=3, metric=0.5)
MIDDLE = CheckpointRef(path="x://r/weights/2", name="2", step=2)
OLD = CheckpointRef(path="x://r/weights/1", name="1", step=1, metric=0.1)


@dataclass
class Source(CheckpointSource[str]):
    """Checkpoints of which some fail a check or a restore; ``errors`` are raised by the first restores."""

    known: Sequence[CheckpointRef] = (NEW, MIDDLE, OLD)
    expired: Sequence[CheckpointRef] = ()
    broken: Sequence[CheckpointRef] = ()
    errors: list[CrucibleError] = field(default_factory=list)
    failures: int = 0

    async def candidates(self) -> Sequence[CheckpointRef]:
        return self.known

    async def check(self, checkpoint: CheckpointRef) -> CheckpointCheck:
        usable = checkpoint not in self.expired
        return CheckpointCheck(path=checkpoint.path, usable=usable, reason=None if usable else "expired")

    async def restore(self, checkpoint: CheckpointRef) -> Restored[str]:
        if self.errors:
            raise self.errors.pop(0)
        if self.failures:
            self.failures -= 1
            raise UnusableCheckpoint("cannot be read")
        if checkpoint in self.broken:
            raise UnusableCheckpoint("truncated")
        return Restored("new run", "r2", checkpoint)


@dataclass
class Recovery:
    """A loop over a source, and everything that it reported."""

    source: Source
    strategy: str = "latest"
    max_attempts: int = 3
    callback: Callable[..., object] | None = None
    events: list[RecoveryEvent] = field(default_factory=list)
    waits: list[float] = field(default_factory=list)
    calls: list[tuple[object, ...]] = field(default_factory=list)

    def run(self) -> Restored[str]:
        """Recover run ``r``."""
        policy = RecoveryPolicy(
            checkpoint_strategy=self.strategy,
            max_attempts=self.max_attempts,
            backoff_ms=1000,
            max_backoff_ms=3000,
            on_recovery=self.callback or (lambda *arguments: self.calls.append(arguments)),
            on_failure=self.callback or (lambda *arguments: self.calls.append(arguments)),
        )
        announce = Announcer("x", self.events.append)
        loop = RecoveryLoop("x", "r", "test", policy, self.source, announce, "old run", self.sleep)
        return asyncio.run(loop.run())

    async def sleep(self, seconds: float) -> None:
        """Write down, and do not wait."""
        self.waits.append(seconds)

    @property
    def names(self) -> list[str]:
        """The names of the events without the prefix that all must have."""
        assert all(event.name.startswith("x.recovery.") and event.run_id == "r" for event in self.events)
        return [event.name.rpartition(".")[2] for event in self.events]


@pytest.mark.parametrize(
    ("strategy", "expected"),
    [("latest", [NEW, MIDDLE, OLD]), ("best_loss", [OLD, NEW, MIDDLE]), (MIDDLE.path, [MIDDLE])],
)
def test_strategies_order_the_candidates(strategy: str, expected: list[CheckpointRef]) -> None:
    """Newest, best or one; a checkpoint without a metric is the last resort of ``best_loss``."""
    assert list(in_order(strategy, (NEW, MIDDLE, OLD))) == expected


@pytest.mark.parametrize("path", ["tinker://run/weights/a", "/state/checkpoints/st-0001"])
def test_a_path_of_any_form_is_a_strategy(path: str) -> None:
    """Servers have forms of their own, as open-rl that of a file; a word is a typing mistake."""
    assert RecoveryPolicy(checkpoint_strategy=path).names_checkpoint
    assert not RecoveryPolicy(checkpoint_strategy="latest").names_checkpoint
    with pytest.raises(ValueError, match="allowed are latest, best_loss"):
        RecoveryPolicy(checkpoint_strategy="newest")


def test_the_first_usable_candidate_is_restored() -> None:
    """The callback receives the old run, the new one and the checkpoint."""
    recovery = Recovery(Source())

    assert recovery.run() == Restored("new run", "r2", NEW)
    assert recovery.names == ["started", "checkpoint_selected", "client_created", "completed"]
    assert recovery.events[-1].details == {"new_run_id": "r2", "checkpoint": NEW.path}
    assert recovery.calls == [("old run", "new run", NEW)]


def test_unusable_candidates_are_rejected_with_their_reason() -> None:
    """One fails its check, one its restore; the third is taken in the same attempt."""
    recovery = Recovery(Source(expired=(NEW,), broken=(MIDDLE,)))

    assert recovery.run().checkpoint == OLD
    assert [event.details["reason"] for event in recovery.events if "rejected" in event.name] == [
        "expired",
        "truncated",
    ]
    assert recovery.names.count("started") == 1


@pytest.mark.parametrize("known", [(), (NEW, OLD)])
def test_without_a_usable_candidate_no_attempt_follows(known: tuple[CheckpointRef, ...]) -> None:
    """Waiting makes no checkpoint better."""
    recovery = Recovery(Source(known=known, expired=known))

    with pytest.raises(NoCheckpoint, match="expired" if known else "known: none"):
        recovery.run()

    assert recovery.names[-1] == "failed"
    assert recovery.names.count("started") == 1
    assert recovery.calls == [("r", "no_checkpoint")]


def test_a_restore_that_fails_for_every_candidate_is_tried_again_before_any_is_rejected() -> None:
    """A service whose disk is away fails every load; the checkpoints are sound."""
    source = Source(known=(NEW, OLD))
    source.failures = 3

    recovery = Recovery(source)

    assert recovery.run().checkpoint == OLD
    assert recovery.waits == [1.0]
    assert recovery.names.count("checkpoint_rejected") == 1


def test_candidates_that_never_load_are_rejected_in_the_last_attempt() -> None:
    recovery = Recovery(Source(known=(NEW, OLD), broken=(NEW, OLD)))

    with pytest.raises(NoCheckpoint, match="x://r/weights/3: truncated; x://r/weights/1: truncated"):
        recovery.run()

    assert recovery.waits == [1.0, 2.0]
    assert recovery.names.count("checkpoint_rejected") == 2


def test_a_failed_attempt_is_repeated_after_a_delay() -> None:
    """The policy's, or a longer one that the service asks for."""
    recovery = Recovery(Source(errors=[BackendUnavailable("away"), CapacityError("full", retry_after_ms=9000)]))

    assert recovery.run().checkpoint == NEW
    assert recovery.waits == [1.0, 9.0]
    assert recovery.names.count("started") == 3
    assert recovery.names.count("failed") == 2


def test_attempts_are_bounded() -> None:
    """The delays grow to their limit, and the last error is in the message."""
    recovery = Recovery(Source(errors=[BackendUnavailable("away")] * 5), max_attempts=5)

    with pytest.raises(RecoveryExhausted, match=r"5 attempts; last error: away"):
        recovery.run()

    assert recovery.waits == [1.0, 2.0, 3.0, 3.0]
    assert recovery.names[-1] == "exhausted"
    assert recovery.calls == [("r", "max_attempts_exceeded")]


@pytest.mark.parametrize("kind", [AuthenticationFailed, OutOfCredit, InvalidRequest])
def test_errors_that_no_attempt_can_cure_end_the_recovery(kind: type[CrucibleError]) -> None:
    """At once, and as they are."""
    recovery = Recovery(Source(errors=[kind("no")]))

    with pytest.raises(kind):
        recovery.run()

    assert recovery.names == ["started", "checkpoint_selected", "failed"]
    assert recovery.waits == []


def test_an_observer_that_raises_stops_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Its error is logged."""

    def fail(event: RecoveryEvent) -> None:
        raise LookupError(event.name)

    loop = RecoveryLoop("x", "r", "test", RecoveryPolicy(), Source(), Announcer("x", fail), None, asyncio.sleep)

    assert asyncio.run(loop.run()).checkpoint == NEW
    assert "the observer of x.recovery.completed failed" in caplog.text


@pytest.mark.parametrize("succeeds", [True, False], ids=["on_recovery", "on_failure"])
def test_an_async_callback_is_awaited(succeeds: bool) -> None:
    finished: list[int] = []

    async def slow(*arguments: object) -> None:
        await asyncio.sleep(0)
        finished.append(len(arguments))

    recovery = Recovery(Source(known=(NEW,) if succeeds else ()), callback=slow)
    if succeeds:
        recovery.run()
    else:
        with pytest.raises(NoCheckpoint):
            recovery.run()

    assert finished == [3 if succeeds else 2]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize("succeeds", [True, False], ids=["on_recovery", "on_failure"])
def test_a_callback_that_raises_is_an_event_and_changes_nothing(succeeds: bool, is_async: bool) -> None:
    def broken(*arguments: object) -> None:
        raise ValueError("a mistake of the script")

    async def broken_later(*arguments: object) -> None:
        broken()

    recovery = Recovery(Source(known=(NEW,) if succeeds else ()), callback=broken_later if is_async else broken)
    if succeeds:
        assert recovery.run().checkpoint is NEW
    else:
        with pytest.raises(NoCheckpoint):
            recovery.run()

    last = recovery.events[-1]
    assert last.name == "x.recovery.callback_failed"
    assert last.details["callback"] == ("on_recovery" if succeeds else "on_failure")
    assert last.details["reason"] == "ValueError: a mistake of the script"


def test_each_delay_is_a_wait_with_its_reason() -> None:
    """So that whoever looks at the job sees within seconds why it stands still; it is over with the delay."""
    recovery = Recovery(Source(errors=[BackendUnavailable("the service is away"), CapacityError("full")]))
    reasons: list[str | None] = []

    class Observer:
        def report(self, wait: Wait) -> None:
            reasons.append(wait.reason)

    with observed(Observer()):
        recovery.run()

    assert reasons == [
        "recovery of run r, next attempt after 1 s: attempt 1 failed: the service is away",
        None,
        "recovery of run r, next attempt after 2 s: attempt 2 failed: full",
        None,
    ]
