"""Publisher confirms of RabbitMQ, awaited once per batch.

RabbitMQ confirms a message once it is on disk. A publisher that awaits each confirm before the next message pays
for a disk write per message; this one sends the whole batch, then waits for all confirms.
https://www.rabbitmq.com/docs/confirms
"""

from typing import Any

from nsai_work.clock import Clock


class Confirms:
    """The unconfirmed messages of a channel. The channel must have no other publisher."""

    def __init__(self, channel: Any, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._published = 0
        self._unconfirmed: set[int] = set()
        self._refused = 0
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)

    def expect(self, count: int) -> None:
        """Expect confirms of the next ``count`` messages that are published."""
        # the broker numbers the messages of a channel from 1
        self._unconfirmed.update(range(self._published + 1, self._published + count + 1))
        self._published += count

    def wait(self, timeout_s: float) -> None:
        """Wait until the broker has confirmed every message.

        Raises:
            TimeoutError: confirms are missing after ``timeout_s``.
            ConnectionError: the broker refused a message.
            Exception: the connection broke; the type is the client library's.
        """
        deadline = self._clock.monotonic() + timeout_s
        while self._unconfirmed:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._unconfirmed)} messages were not confirmed in {timeout_s:g} s")
            self._channel.connection.drain_events(timeout=left)
        if self._refused:
            self._refused = 0
            raise ConnectionError("the broker refused a message")

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        # confirms may arrive out of order; "multiple" confirms this message and all before it
        if multiple:
            self._unconfirmed = {tag for tag in self._unconfirmed if tag > delivery_tag}
        else:
            self._unconfirmed.discard(delivery_tag)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        self._refused += 1
        self._on_ack(delivery_tag, multiple)
