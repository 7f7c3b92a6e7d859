"""Publisher confirms, asked for together.

RabbitMQ confirms a message once it is safe, which takes as long as its disk does. A publisher that waits for each
message before it sends the next pays that for each; this one sends all and waits once.
https://www.rabbitmq.com/docs/confirms
"""

from typing import Any

from nsai_work.clock import Clock


class Confirms:
    """Counts what the broker has confirmed on one channel, on which nobody else publishes."""

    def __init__(self, channel: Any, clock: Clock) -> None:
        self._channel = channel
        self._clock = clock
        self._sent = 0
        self._open: set[int] = set()
        self._refused = 0
        channel.confirm_select()
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)

    def expect(self, count: int) -> None:
        """So many messages are about to be published."""
        # the broker numbers the messages of a channel from 1
        self._open.update(range(self._sent + 1, self._sent + count + 1))
        self._sent += count

    def wait(self, timeout_s: float) -> None:
        """Return once the broker has confirmed all that was sent.

        Raises:
            TimeoutError: it did not within the time.
            ConnectionError: it refused a message.
            Exception: what the broker's client raises when the connection breaks.
        """
        deadline = self._clock.monotonic() + timeout_s
        while self._open:
            left = deadline - self._clock.monotonic()
            if left <= 0:
                raise TimeoutError(f"{len(self._open)} messages were not confirmed in {timeout_s:g} s")
            self._channel.connection.drain_events(timeout=left)
        if self._refused:
            self._refused = 0
            raise ConnectionError("the broker refused a message")

    def _on_ack(self, delivery_tag: int, multiple: bool) -> None:
        # one that is confirmed by itself may overtake others; "multiple" means this and all before it
        if multiple:
            self._open = {tag for tag in self._open if tag > delivery_tag}
        else:
            self._open.discard(delivery_tag)

    def _on_nack(self, delivery_tag: int, multiple: bool) -> None:
        self._refused += 1
        self._on_ack(delivery_tag, multiple)
