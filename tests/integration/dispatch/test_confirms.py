"""Publisher confirms on a real RabbitMQ."""

import secrets
from collections.abc import Iterator

import pytest

from nsai_work.clock import SystemClock
from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.confirms import Confirms
from nsai_work.dispatch.publisher import Publisher
from nsai_work.dispatch.queues import queue_name, wake_queue
from nsai_work.job import Priority
from nsai_work.settings import Settings
from nsai_work.store import WakeUp
from tests.rig import Proxy

pytestmark = pytest.mark.amqp


@pytest.fixture
def settings(amqp_url: str) -> Iterator[Settings]:
    """Queues of this test's own."""
    settings = Settings(broker_url=amqp_url, queue_prefix=f"confirms-{secrets.token_hex(4)}")
    yield settings
    with broker_connection(settings) as connection:
        for priority in Priority:
            wake_queue(settings.queue_prefix, priority, amqp_url)(connection.default_channel).delete()


def queued(settings: Settings) -> int:
    """Return the number of wake-ups on the batch queue, as the broker counts them."""
    with broker_connection(settings) as connection:
        declared = connection.default_channel.queue_declare(
            queue_name(settings.queue_prefix, Priority.BATCH), passive=True
        )
        return int(declared.message_count)


def test_a_batch_is_on_the_queue_when_publish_returns(settings: Settings) -> None:
    """Also a second batch: the numbers of messages continue on the same channel."""
    publisher = Publisher(settings)
    assert publisher.publish([WakeUp(job_id=f"job-{n}", fence=0, priority=Priority.BATCH) for n in range(200)])
    assert queued(settings) == 200
    assert publisher.publish([WakeUp(job_id="one-more", fence=0, priority=Priority.BATCH)])
    assert queued(settings) == 201
    publisher.close()


def test_publishing_to_an_unreachable_broker_fails_and_does_not_hang(settings: Settings) -> None:
    """An unconfirmed batch counts as not published. A later one is published on a new connection."""
    proxy = Proxy(settings.broker_url)
    through = Settings(broker_url=proxy.url, queue_prefix=settings.queue_prefix)
    publisher = Publisher(through)
    assert publisher.publish([WakeUp(job_id="first", fence=0, priority=Priority.BATCH)])

    proxy.cut()
    assert not publisher.publish([WakeUp(job_id="lost", fence=0, priority=Priority.BATCH)])
    proxy.open()

    second = Publisher(through)
    assert second.publish([WakeUp(job_id="second", fence=0, priority=Priority.BATCH)])
    assert queued(settings) == 2
    second.close()
    publisher.close()
    proxy.close()


def test_confirms_may_arrive_out_of_order(settings: Settings) -> None:
    """The wait ends with the last confirm: of a later message first, then of several, then of the rest."""
    with broker_connection(settings) as connection:
        confirms = Confirms(connection.channel(), SystemClock())
        confirms.expect(5)
        for tag, multiple in ((5, False), (3, True)):
            confirms._on_ack(tag, multiple)
        with pytest.raises(TimeoutError):
            confirms.wait(0.05)
        confirms._on_nack(4, False)
        with pytest.raises(ConnectionError, match="refused"):
            confirms.wait(0.05)
        confirms.wait(0.05)
