"""Publishes wake-ups through kombu, in Celery's message format.

A failed publish is not an error: a worker finds the stored job by polling, or the maintainer publishes its wake-up
again. A publisher never raises and never blocks for long; after a failure it backs off from the broker for a while.
"""

import threading
from collections import Counter
from collections.abc import Sequence
from typing import Any

from kombu import Connection, Producer

from crucible.runtime.forks import reset_after_fork, retain_inherited
from nsai_work.clock import Clock, SystemClock
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.confirms import Confirms
from nsai_work.dispatch.queues import is_amqp, queue_name, wake_queues
from nsai_work.dispatch.wakeup import encode
from nsai_work.job import Priority
from nsai_work.settings import Settings, redacted
from nsai_work.store.records import WakeUp
from nsai_work.telemetry.logs import get_logger

log = get_logger(__name__)

PUBLISH_TIMEOUT_S = 2.0
BACK_OFF_S = 3.0

# a worker that is woken up claims until nothing is due, so one wake-up per worker suffices; in a larger fleet the
# other workers find the remaining jobs by polling, or through the maintainer's wake-ups
MAX_WAKE_UPS = 16


def enough_wake_ups(wake_ups: Sequence[WakeUp]) -> list[WakeUp]:
    """Return at most ``MAX_WAKE_UPS`` wake-ups of each priority, which suffices to wake a fleet up."""
    sent: Counter[Priority] = Counter()
    enough: list[WakeUp] = []
    for wake_up in wake_ups:
        if sent[wake_up.priority] < MAX_WAKE_UPS:
            sent[wake_up.priority] += 1
            enough.append(wake_up)
    return enough


class Publisher:
    """A lazily opened connection that publishes wake-ups. Thread-safe and fork-safe."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._clock = clock or SystemClock()
        self._connection: Connection | None = None
        self._reset()
        reset_after_fork(self._reset)

    def _reset(self) -> None:
        retain_inherited(self._connection)
        self._lock = threading.Lock()
        self._connection = None
        self._producer: Producer | None = None
        self._confirms: Confirms | None = None
        self._back_off_until = 0.0

    def publish(self, wake_ups: Sequence[WakeUp]) -> bool:
        """Publish wake-ups. Returns False if the broker is unavailable; some may have been published."""
        if not wake_ups:
            return True
        with self._lock:
            if self._clock.monotonic() < self._back_off_until:
                return False
            # a restarted broker has closed our idle connection, which only a publish detects: so retry once
            return self._send(wake_ups, last=self._producer is None) or (
                self._back_off_until == 0.0 and self._send(wake_ups, last=True)
            )

    def close(self) -> None:
        """Close the connection; a later publish reopens it."""
        with self._lock:
            self._drop()

    def _send(self, wake_ups: Sequence[WakeUp], *, last: bool) -> bool:
        try:
            producer = self._open()
            if self._confirms is not None:
                self._confirms.expect(len(wake_ups))
            for wake_up in wake_ups:
                self._publish_one(producer, wake_up)
            if self._confirms is not None:
                self._confirms.wait(PUBLISH_TIMEOUT_S)
        except Exception as error:  # of any type, by the broker's client library; costs latency only
            self._drop()
            if last:
                self._back_off_until = self._clock.monotonic() + BACK_OFF_S
                log.warning(
                    "broker.unreachable", broker=redacted(self._settings.broker_url), error=type(error).__name__
                )
            return False
        self._back_off_until = 0.0
        return True

    def _publish_one(self, producer: Any, wake_up: WakeUp) -> None:
        message = encode(wake_up)
        producer.publish(
            message.body,
            exchange="",
            routing_key=queue_name(self._settings.queue_prefix, wake_up.priority),
            content_type="application/json",
            content_encoding="utf-8",
            headers=message.headers,
            correlation_id=message.correlation_id,
            timeout=PUBLISH_TIMEOUT_S,
        )

    def _open(self) -> Any:
        if self._producer is None:
            settings = self._settings
            self._connection = broker_connection(settings)
            self._connection.ensure_connection(max_retries=1, interval_start=0, timeout=PUBLISH_TIMEOUT_S)
            channel = self._connection.default_channel
            for queue in wake_queues(settings.queue_prefix, settings.broker_url):
                queue(channel).declare()
            self._confirms = Confirms(channel, self._clock) if is_amqp(settings.broker_url) else None
            self._producer = Producer(channel, auto_declare=False)
        return self._producer

    def _drop(self) -> None:
        connection, self._connection, self._producer, self._confirms = self._connection, None, None, None
        if connection is not None:
            connection.collect(socket_timeout=0.5)
