"""The deliverer: sends the alerts of all jobs to the targets of this worker, each at least once.

One worker delivers at a time. What was delivered is recorded per target after it was sent, so a crash in between
repeats it under the same id. A target that cannot be reached is tried again, with growing pauses, and nothing is
lost meanwhile.
"""

import asyncio
from collections.abc import Sequence
from typing import Final, Protocol

from crucible.errors import CrucibleError
from nsai_work.alerts.alert import Alert, event_names
from nsai_work.alerts.target import Target
from nsai_work.clock import Clock
from nsai_work.store.records import NotedEvent
from nsai_work.telemetry.job_events import alert_counts
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

BATCH: Final = 50
FIRST_PAUSE_S: Final = 1.0
MAX_PAUSE_S: Final = 300.0
MAX_DEFECTS: Final = 5
CLOSE_S: Final = 5.0


class AlertStore(Protocol):
    """The store as the deliverer uses it."""

    async def deliver_alerts(self) -> bool:
        """Campaign for the delivery; returns whether it is this worker's."""

    async def noted_events(self, target: str, names: Sequence[str], limit: int, /) -> list[NotedEvent]:
        """Return the next events of these names that a target was not sent, in order."""

    async def mark_sent(self, target: str, event: NotedEvent, failure: str | None, /) -> None:
        """Record that a target was sent an event, or with a reason that it never will be."""


class Deliverer:
    """Delivers to the targets, side by side, every ``interval_s``."""

    def __init__(self, targets: Sequence[Target], store: AlertStore, clock: Clock, interval_s: float) -> None:
        self._targets = targets
        self._store = store
        self._clock = clock
        self._interval_s = interval_s
        self._pauses: dict[str, tuple[float, float]] = {}
        """By target: the pause, and the monotonic time of its end."""
        self._defects: dict[str, tuple[int, int]] = {}
        """By target: the event at which its notifier failed unexpectedly, and how often."""

    async def begin(self) -> None:
        """Have new targets begin with the present, before this worker runs jobs."""
        for target in self._targets:
            await self._store.noted_events(target.name, event_names(target.kinds), 0)

    async def run(self) -> None:
        """Deliver forever. An error of the store is logged."""
        while True:
            try:
                if await self._store.deliver_alerts():
                    await self.deliver()
            except CrucibleError as error:
                log.warning("alerts.failed", error=error.code)
            await asyncio.sleep(self._interval_s)

    async def close(self) -> None:
        """Close the notifiers. Nothing is sent afterwards. A failure to close is logged."""
        await asyncio.gather(*map(self._close, self._targets))

    async def _close(self, target: Target) -> None:
        try:
            async with asyncio.timeout(CLOSE_S):
                await target.notifier.close()
        except Exception:
            log.exception("alerts.close_failed", target=target.name)

    async def deliver(self) -> None:
        """Send what is due to each target once. Raises an error of the store when the sends to all have ended."""
        due = [target for target in self._targets if not self._is_paused(target)]
        ends = await asyncio.gather(*map(self._deliver_to, due), return_exceptions=True)
        for end in ends:
            if end is not None:
                raise end

    def _is_paused(self, target: Target) -> bool:
        _, until = self._pauses.get(target.name, (0.0, 0.0))
        return self._clock.monotonic() < until

    async def _deliver_to(self, target: Target) -> None:
        for event in await self._store.noted_events(target.name, event_names(target.kinds), BATCH):
            alert = Alert.of(event)
            failure = None
            if alert is not None and alert.kind in target.kinds:
                try:
                    await target.notifier.send(alert)
                except CrucibleError as error:
                    if error.retryable:
                        self._pause(target, error.message)
                        return
                    failure = error.message
                except Exception as error:
                    failure = f"{type(error).__name__} in the notifier"
                    if not self._is_last_try(target, event):
                        self._pause(target, failure)
                        return
                self._pauses.pop(target.name, None)
                alert_counts.add("alerts", "sent" if failure is None else "given_up")
            if failure is not None:
                log.warning("alert.given_up", target=target.name, job_id=event.job_id, reason=failure)
            await self._store.mark_sent(target.name, event, failure)

    def _is_last_try(self, target: Target, event: NotedEvent) -> bool:
        """Count a defect of a notifier: the alert that causes it must not delay the others for ever."""
        seq, tries = self._defects.get(target.name, (event.seq, 0))
        tries = tries + 1 if seq == event.seq else 1
        self._defects[target.name] = (event.seq, tries)
        return tries >= MAX_DEFECTS

    def _pause(self, target: Target, reason: str) -> None:
        before, _ = self._pauses.get(target.name, (0.0, 0.0))
        pause = min(max(2 * before, FIRST_PAUSE_S), MAX_PAUSE_S)
        alert_counts.add("alerts", "delayed")
        self._pauses[target.name] = (pause, self._clock.monotonic() + pause)
        log.warning("alert.delayed", target=target.name, reason=reason, pause_s=pause)
