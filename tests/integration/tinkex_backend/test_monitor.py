"""The monitor's rounds: what leaves the watch list, what stays, and what is said."""

import asyncio

import pytest

from backends.tinkex.recovery import RecoveryMonitor
from crucible.errors import BackendUnavailable, CallerError
from crucible.recovery import RecoveryEvent, RecoveryPolicy

POLICY = RecoveryPolicy(enabled=True, poll_interval_ms=5000)


class Handed:
    """Writes down what is handed over."""

    def __init__(self) -> None:
        self.runs: list[tuple[str, object]] = []

    def take_over(self, run_id: str, client: object, reason: str) -> None:
        assert reason
        self.runs.append((run_id, client))


class Service:
    """Says of each run what it is told to say, in turn; the last word stays."""

    def __init__(self, **words: list[bool | Exception]) -> None:
        self.words = words
        self.polled: list[str] = []

    async def __call__(self, run_id: str) -> bool:
        self.polled.append(run_id)
        words = self.words[run_id]
        word = words.pop(0) if len(words) > 1 else words[0]
        if isinstance(word, Exception):
            raise word
        return word


def test_a_corrupted_run_is_handed_over_once() -> None:
    """It leaves the list as it goes, with its client; the sound one stays."""
    handed, events = Handed(), list[RecoveryEvent]()
    monitor = RecoveryMonitor(Service(bad=[True], good=[False]), handed, policy=POLICY, observe=events.append)
    monitor.monitor_run("bad", "its client")
    monitor.monitor_run("good")

    async def rounds() -> None:
        await monitor.poll()
        await monitor.poll()

    asyncio.run(rounds())

    assert handed.runs == [("bad", "its client")]
    assert monitor.watched == {"good"}
    assert [(event.name, event.run_id) for event in events] == [("tinkex.recovery.detected", "bad")]


def test_a_failing_poll_keeps_the_run() -> None:
    """It says so, and asks again the next time."""
    handed, events = Handed(), list[RecoveryEvent]()
    service = Service(run=[BackendUnavailable("away"), False, BackendUnavailable("away"), True])
    monitor = RecoveryMonitor(service, handed, policy=POLICY, observe=events.append)
    monitor.monitor_run("run")

    async def rounds() -> None:
        for _ in range(4):
            assert monitor.watched == {"run"}
            await monitor.poll()

    asyncio.run(rounds())

    assert handed.runs == [("run", None)]
    assert [event.name for event in events] == [
        "tinkex.recovery.poll_error",
        "tinkex.recovery.poll_error",
        "tinkex.recovery.detected",
    ]


def test_a_run_taken_off_the_list_is_not_asked_for() -> None:
    """Nor handed over, when the answer was on its way."""
    handed = Handed()
    monitor: RecoveryMonitor

    async def slow(run_id: str) -> bool:
        monitor.stop_monitoring(run_id)
        return True

    monitor = RecoveryMonitor(slow, handed, policy=POLICY)
    monitor.monitor_run("run")
    asyncio.run(monitor.poll())

    assert handed.runs == []
    assert not monitor.stop_monitoring("run")


@pytest.mark.parametrize(("enabled", "polls"), [(True, 3), (False, 0)], ids=["enabled", "disabled"])
def test_it_polls_at_the_interval_of_the_policy(enabled: bool, polls: int) -> None:
    """And not at all when the policy is not enabled."""
    waits: list[float] = []
    service = Service(run=[False])

    async def body() -> None:
        enough = asyncio.Event()

        async def sleep(seconds: float) -> None:
            waits.append(seconds)
            if len(waits) > 3:
                enough.set()
                await asyncio.Event().wait()

        policy = POLICY.model_copy(update={"enabled": enabled})
        monitor = RecoveryMonitor(service, Handed(), policy=policy, sleep=sleep)
        monitor.monitor_run("run")
        async with monitor:
            if enabled:
                await enough.wait()

    asyncio.run(body())

    assert len(service.polled) == polls
    assert set(waits) <= {5.0}


def test_an_observer_that_fails_stops_nothing() -> None:
    """What is seen is told; recovery does not depend on the listener."""

    def broken(event: RecoveryEvent) -> None:
        raise RuntimeError(event.name)

    handed = Handed()
    monitor = RecoveryMonitor(Service(run=[True]), handed, policy=POLICY, observe=broken)
    monitor.monitor_run("run")
    asyncio.run(monitor.poll())

    assert handed.runs == [("run", None)]


def test_a_run_needs_an_id() -> None:
    """An empty one is a mistake of the caller."""
    monitor = RecoveryMonitor(Service(), Handed(), policy=POLICY)
    with pytest.raises(CallerError, match="run_id"):
        monitor.monitor_run("")


def test_no_failure_of_a_poll_ends_the_monitor() -> None:
    """Not even one outside our family: it is an event, and the run is polled again."""
    handed, events = Handed(), list[RecoveryEvent]()
    service = Service(run=[ValueError("not ours"), OSError("nor this"), True])
    monitor = RecoveryMonitor(service, handed, policy=POLICY, observe=events.append)
    monitor.monitor_run("run")

    async def rounds() -> None:
        for _ in range(3):
            await monitor.poll()

    asyncio.run(rounds())

    assert handed.runs == [("run", None)]
    assert [event.details.get("reason") for event in events[:2]] == ["ValueError: not ours", "OSError: nor this"]
    assert {event.name for event in events[:2]} == {"tinkex.recovery.poll_error"}


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_handler_that_raises_is_an_event_and_gets_the_run_again(is_async: bool) -> None:
    taken: list[str] = []
    events = list[RecoveryEvent]()

    class Clumsy:
        def take_over(self, run_id: str, client: object, reason: str) -> object:
            return self._later(run_id) if is_async else self._now(run_id)

        def _now(self, run_id: str) -> None:
            taken.append(run_id)
            if len(taken) == 1:
                raise RuntimeError("not yet")

        async def _later(self, run_id: str) -> None:
            self._now(run_id)

    monitor = RecoveryMonitor(Service(run=[True]), Clumsy(), policy=POLICY, observe=events.append)  # type: ignore[arg-type]
    monitor.monitor_run("run", "its client")

    async def rounds() -> None:
        await monitor.poll()
        assert monitor.watched == {"run"}
        await monitor.poll()

    asyncio.run(rounds())

    assert taken == ["run", "run"]
    assert monitor.watched == frozenset()
    [failed] = [event for event in events if event.name == "tinkex.recovery.callback_failed"]
    assert (failed.details["callback"], failed.details["reason"]) == ("take_over", "RuntimeError: not yet")


def test_a_monitor_that_cannot_go_on_says_so_for_every_run() -> None:
    events = list[RecoveryEvent]()

    async def body() -> None:
        async def sleep(seconds: float) -> None:
            raise OSError("no clock")

        monitor = RecoveryMonitor(
            Service(a=[False], b=[False]), Handed(), policy=POLICY, observe=events.append, sleep=sleep
        )
        monitor.monitor_run("a")
        monitor.monitor_run("b")
        async with monitor:
            await asyncio.sleep(0.01)

    with pytest.raises(OSError, match="no clock"):
        asyncio.run(body())
    assert {(event.run_id, event.details["reason"]) for event in events} == {
        ("a", "the monitor stopped: OSError: no clock"),
        ("b", "the monitor stopped: OSError: no clock"),
    }


def test_a_monitor_whose_policy_is_off_says_so() -> None:
    """The class's default is off, and a script that forgets it would wait for ever."""
    events = list[RecoveryEvent]()

    async def body() -> None:
        monitor = RecoveryMonitor(Service(), Handed(), policy=RecoveryPolicy(), observe=events.append)
        monitor.monitor_run("run")
        async with monitor:
            pass

    asyncio.run(body())
    assert [(event.name, event.run_id) for event in events] == [("tinkex.recovery.disabled", "run")]
