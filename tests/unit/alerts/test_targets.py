"""What ``NSAI_WORK_NOTIFY`` may hold, and how targets are sent to."""

import asyncio
import contextlib
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import EntryPoint

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from crucible.errors import BackendUnavailable, InvalidRequest
from nsai_work.alerts import deliverer as deliverers
from nsai_work.alerts import target as targets
from nsai_work.alerts.alert import _KINDS, Alert, AlertKind, event_names
from nsai_work.alerts.deliverer import FIRST_PAUSE_S, MAX_DEFECTS, MAX_PAUSE_S, Deliverer
from nsai_work.alerts.target import Target, open_targets
from nsai_work.alerts.webhook import Webhook
from nsai_work.errors import StoreUnavailable
from nsai_work.settings import Settings
from nsai_work.store.records import NotedEvent

URL = "https://hooks.example.org/s3cret"


def opened(value: object) -> list[Target]:
    """The targets of a value of the variable."""
    return open_targets(Settings(notify=value if isinstance(value, str) else json.dumps(value)))


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("s3cret", "must be a JSON object of targets by name"),
        ("[" * 100_000, "must be a JSON object"),
        ([], "must be a JSON object"),
        ({"": {}}, "must be a JSON object"),
        ({"ops": {}}, "'ops': notifier: Field required"),
        ({"ops": {"notifier": "webhok", "settings": {"url": URL}}}, "no notifier 'webhok'; did you mean webhook"),
        ({"ops": {"notifier": "webhook", "settings": {}}}, "'ops': settings: url: Field required"),
        ({"ops": {"notifier": "webhook", "settings": {"url": "ftp://s3cret"}}}, "must be an http or https URL"),
        ({"ops": {"notifier": "webhook", "settings": {"url": "http:///s3cret"}}}, "must be an http or https URL"),
        ({"ops": {"notifier": "webhook", "settings": {"url": URL, "retries": 3}}}, "retries: unknown field"),
        ({"ops": {"notifier": "webhook", "settings": {"url": URL, "secret_variable": "NONE"}}}, "NONE must hold"),
        ({"ops": {"notifier": "webhook", "on": ["fails"], "settings": {"url": URL}}}, "'ops': on.0: "),
        ({"ops": {"notifier": "webhook", "on": [], "settings": {"url": URL}}}, "'ops': on: "),
        ({"ops": {"notifier": "webhook", "setings": {}}}, "'ops': setings: unknown field; did you mean settings?"),
        ({"ops": {"notifier": "webhook", "settings": {"url": URL, "timeout": 3}}}, "did you mean timeout_s?"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_without_its_value(value: object, complaint: str) -> None:
    """The URL of a webhook may be a secret."""
    with pytest.raises(InvalidRequest) as caught:
        opened(value)

    assert caught.value.message.startswith("NSAI_WORK_NOTIFY: ")
    assert complaint in caught.value.message
    assert "s3cret" not in f"{caught.value.message}{caught.value.details}"


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda items: st.lists(items, max_size=3) | st.dictionaries(st.sampled_from(["ops", "notifier", "on", "settings", "url", "webhook"]) | st.text(), items, max_size=4)))  # fmt: skip # noqa: E501
def test_no_value_raises_anything_else(value: object) -> None:
    """It is refused, or gives targets."""
    with contextlib.suppress(InvalidRequest):
        assert all(isinstance(target, Target) for target in opened(value))


def test_a_target_gets_what_it_asks_for() -> None:
    """By default what a person must know of: failures, recoveries and pauses."""
    [target] = opened({"ops": {"notifier": "webhook", "settings": {"url": URL}}})

    assert target.kinds == {AlertKind.FAILED, AlertKind.RECOVERED, AlertKind.PAUSED}
    assert event_names(frozenset({AlertKind.FAILED})) == ("job.failed", "job.timeout")


def noted(seq: int, event: str = "job.failed", data: dict[str, JsonValue] | None = None) -> NotedEvent:
    """An event of a job."""
    return NotedEvent(
        seq, 1, datetime(2026, 1, 1, tzinfo=UTC), event, data or {}, "j", None, "tool_call", "fake", "t", "failed"
    )


@pytest.mark.parametrize("event", sorted(_KINDS))
def test_every_occasion_has_a_notice(event: str) -> None:
    """A job that goes back to the queue is paused only if credit is what it lacks."""
    short = noted(1, event, {"failure": {"code": "out_of_credit"}})
    alert = Alert.of(short)
    assert alert is not None
    assert (alert.kind, alert.id) == (_KINDS[event], "event-1")
    for data in ({}, {"failure": None}, {"failure": {"code": "backend_unavailable"}}):
        assert (Alert.of(noted(1, event, data)) is None) == (event == "job.queued")
    assert Alert.of(noted(1, "step")) is None


class Scene:
    """A store of events, a clock, and a notifier that fails as it is told."""

    def __init__(self, failures: Mapping[int, list[Exception]]) -> None:
        self.now = 0.0
        self.failures = {seq: list(errors) for seq, errors in failures.items()}
        self.due = {1: noted(1), 2: noted(2)}
        self.sent: list[str] = []
        self.given_up: list[str] = []
        target = Target("ops", frozenset(AlertKind), self)
        self.deliverer = Deliverer([target], self, self, 1.0)  # type: ignore[arg-type]  # monotonic time only

    def monotonic(self) -> float:
        return self.now

    async def send(self, alert: Alert) -> None:
        seq = int(alert.id.removeprefix("event-"))
        if self.failures.get(seq):
            raise self.failures[seq].pop(0)
        self.sent.append(alert.id)

    async def close(self) -> None:
        """Nothing is open."""

    async def deliver_alerts(self) -> bool:
        return True

    async def noted_events(self, _target: str, _names: object, limit: int) -> list[NotedEvent]:
        return [self.due[seq] for seq in sorted(self.due)][:limit]

    async def mark_sent(self, _target: str, event: NotedEvent, failure: str | None) -> None:
        del self.due[event.seq]
        if failure is not None:
            self.given_up.append(failure)

    def deliver(self) -> None:
        """One round."""
        asyncio.run(self.deliverer.deliver())


def test_pauses_grow_while_a_target_is_away() -> None:
    """And end with the first delivery; the order stays."""
    scene = Scene({1: [BackendUnavailable("away")] * 12})
    pauses = []
    while scene.due:
        began = scene.now
        scene.deliver()
        while scene.due and scene.deliverer._is_paused(scene.deliverer._targets[0]):
            scene.now += 0.5
        pauses.append(scene.now - began)

    assert pauses[:3] == [FIRST_PAUSE_S, 2 * FIRST_PAUSE_S, 4 * FIRST_PAUSE_S]
    assert pauses[11] == MAX_PAUSE_S
    assert scene.sent == ["event-1", "event-2"]
    assert scene.given_up == []


def test_a_notice_that_a_notifier_cannot_send_delays_the_others_for_a_while() -> None:
    """It is given up at the last of several tries."""
    scene = Scene({1: [ZeroDivisionError()] * 100, 2: [InvalidRequest("no")]})
    for _ in range(MAX_DEFECTS):
        scene.deliver()
        scene.now += MAX_PAUSE_S

    assert scene.given_up == ["ZeroDivisionError in the notifier", "no"]
    assert len(scene.failures[1]) == 100 - MAX_DEFECTS


def test_a_round_ends_when_nothing_is_sent_any_more() -> None:
    """An error of the store at one target does not leave the send to another behind, which would be repeated beside
    it, or go on after the notifiers are closed."""

    class Slow(Scene):
        async def send(self, alert: Alert) -> None:
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            await super().send(alert)

        async def noted_events(self, target: str, names: object, limit: int) -> list[NotedEvent]:
            if target == "broken":
                raise StoreUnavailable("away")
            return await super().noted_events(target, names, limit)

    scene = Slow({})
    scene.deliverer._targets = [Target("broken", frozenset(AlertKind), scene), *scene.deliverer._targets]

    async def deliver() -> list[str]:
        with pytest.raises(StoreUnavailable):
            await scene.deliverer.deliver()
        return list(scene.sent)

    assert asyncio.run(deliver()) == ["event-1", "event-2"]


def test_a_notifier_that_hangs_does_not_keep_a_worker_from_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its close is given up after some seconds; the others are closed meanwhile."""
    monkeypatch.setattr(deliverers, "CLOSE_S", 0.05)
    closed: list[str] = []

    class Closing(Scene):
        async def close(self) -> None:
            closed.append("ops")

    class Hanging(Scene):
        async def close(self) -> None:
            await asyncio.Event().wait()

    scene = Closing({})
    scene.deliverer._targets = [Target("hangs", frozenset(AlertKind), Hanging({})), *scene.deliverer._targets]

    async def close() -> None:
        async with asyncio.timeout(30):
            await scene.deliverer.close()

    asyncio.run(close())

    assert closed == ["ops"]


def test_a_webhook_sends_nothing_after_its_close() -> None:
    """It would open connections that nobody closes."""

    async def send() -> None:
        webhook = Webhook({"url": URL})
        await webhook.close()
        alert = Alert.of(noted(1))
        assert alert is not None
        with pytest.raises(BackendUnavailable, match="closed"):
            await webhook.send(alert)
        assert webhook._client is None

    asyncio.run(send())


def test_a_plug_in_that_is_no_notifier_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that cannot be created, or that two packages register."""
    points = [
        EntryPoint("text", "builtins:str", targets.GROUP),
        EntryPoint("broken", "nowhere:Nothing", targets.GROUP),
        EntryPoint("twice", "builtins:str", targets.GROUP),
        EntryPoint("twice", "builtins:int", targets.GROUP),
    ]
    monkeypatch.setattr(targets, "entry_points", lambda group: points)
    complaints = []
    for name in ("text", "broken", "twice"):
        with pytest.raises(InvalidRequest) as caught:
            opened({"ops": {"notifier": name}})
        complaints.append(caught.value.message.partition("'ops': ")[2])

    assert complaints == [
        "builtins:str is no notifier: it has no send and close",
        "the notifier cannot be created (ModuleNotFoundError)",
        "two packages register the notifier 'twice'",
    ]
