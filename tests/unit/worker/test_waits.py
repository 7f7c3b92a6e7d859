"""Which waits of a job are shown, when, and how often."""

import asyncio
from collections.abc import Callable

from crucible.runtime.waits import WaitCause, observed, waiting
from nsai_work.worker.attempts.waits import EVENT_INTERVAL_S, SHOWN_AFTER_S, AttemptWaits, Event


class Scene:
    """Waits over virtual time, and what was stored."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stored: list[tuple[float, str | None, Event | None]] = []
        self.waits = AttemptWaits(self._write, self, self._sleep)  # type: ignore[arg-type]  # monotonic time only

    def monotonic(self) -> float:
        """The virtual time."""
        return self.now

    async def _write(self, reason: str | None, event: Event | None) -> None:
        self.stored.append((self.now, reason, event))

    async def _sleep(self, seconds: float) -> None:
        self.now += seconds
        await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        """Let the observer work for that long."""
        until = self.now + seconds
        for _ in range(int(seconds * 100)):
            await asyncio.sleep(0)
            if self.now >= until or self.waits._task is None or self.waits._task.done():
                break
        self.now = max(self.now, until)


def play(script: Callable[[Scene], object]) -> Scene:
    """Run a script of waits."""

    async def body() -> Scene:
        scene = Scene()
        with observed(scene.waits):
            await script(scene)  # type: ignore[misc]
        await scene.waits.close()
        return scene

    return asyncio.run(body())


def test_a_wait_is_shown_within_five_seconds_and_cleared_when_it_ends() -> None:
    """As a reason and an event each."""

    async def script(scene: Scene) -> None:
        with waiting() as wait:
            wait.because("at its limit")
            await scene.pass_time(10)
        await scene.pass_time(2)

    (shown_at, *shown), (_, *cleared) = play(script).stored

    assert shown_at <= 5
    assert shown == ["at its limit", ("wait.started", {"reason": "at its limit"})]
    assert cleared == [None, ("wait.ended", {"reason": "at its limit"})]


def test_a_short_wait_is_not_shown() -> None:
    """Retries within a second are usual on any network."""

    async def script(scene: Scene) -> None:
        with waiting() as wait:
            wait.because("busy")
            await scene.pass_time(SHOWN_AFTER_S / 2)
        await scene.pass_time(5)

    assert play(script).stored == []


def test_events_are_limited_in_number() -> None:
    """A reason that changes all the time is always current in the column, and an event now and then."""

    async def script(scene: Scene) -> None:
        with waiting() as wait:
            for number in range(100):
                wait.because(f"reason {number}")
                await scene.pass_time(1)

    stored = play(script).stored

    assert len({reason for _, reason, _ in stored}) > 50
    started = [event for *_, event in stored if event is not None and event[0] == "wait.started"]
    assert len(started) <= 100 / EVENT_INTERVAL_S + 1


def test_an_expected_wait_is_an_event_only_when_it_is_long() -> None:
    """Every slow step waits for its result; that is a reason, but no news."""

    async def script(scene: Scene) -> None:
        for _ in range(3):
            with waiting() as wait:
                wait.because("no result yet", WaitCause.RESULT)
                await scene.pass_time(10)
            await scene.pass_time(1)
        with waiting() as wait:
            wait.because("no result yet", WaitCause.RESULT)
            await scene.pass_time(EVENT_INTERVAL_S + 5)
        await scene.pass_time(1)

    stored = play(script).stored

    shown = ["no result yet", None]
    assert [reason for _, reason, event in stored if event is None] == [*shown, *shown, *shown, "no result yet"]
    assert [event[0] for *_, event in stored if event is not None] == ["wait.started", "wait.ended"]


def test_an_unexpected_wait_goes_before_an_expected_one() -> None:
    """And the oldest of equal ones first."""

    async def script(scene: Scene) -> None:
        with waiting() as result, waiting() as limit, waiting() as later:
            result.because("no result yet", WaitCause.RESULT)
            limit.because("at its limit")
            await scene.pass_time(1)
            later.because("away")
            await scene.pass_time(3)

    assert [reason for _, reason, _ in play(script).stored] == ["at its limit", None]


def test_the_end_of_the_attempt_ends_its_wait() -> None:
    """With an event, like any other end."""

    async def script(scene: Scene) -> None:
        with waiting() as wait:
            wait.because("at its limit")
            await scene.pass_time(5)

    assert [event[0] for *_, event in play(script).stored if event is not None] == ["wait.started", "wait.ended"]


def test_nothing_is_stored_after_the_end_of_the_attempt() -> None:
    """A heartbeat that outlives the attempt reports to nobody."""

    async def body() -> Scene:
        scene = Scene()
        with observed(scene.waits), waiting() as wait:
            await scene.waits.close()
            wait.because("away")
            await scene.pass_time(10)
        return scene

    assert asyncio.run(body()).stored == []


def test_without_an_observer_a_report_goes_nowhere() -> None:
    """As in programs that use a backend without a worker."""
    with waiting() as wait:
        wait.because("at its limit")

    assert wait.reason is None
