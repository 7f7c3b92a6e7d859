"""Publisher confirms over a real RabbitMQ: all of a batch is waited for, and a broker that is silent is noticed."""

import secrets
from collections.abc import Iterator
from urllib.parse import urlsplit

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
    """Queues that nobody else uses."""
    chosen = Settings(broker_url=amqp_url, queue_prefix=f"confirms-{secrets.token_hex(4)}")
    yield chosen
    with broker_connection(chosen) as connection:
        for priority in Priority:
            wake_queue(chosen.queue_prefix, priority, amqp_url)(connection.default_channel).delete()


def waiting(settings: Settings) -> int:
    """How many wake-ups lie on the batch queue, by the broker's own count."""
    with broker_connection(settings) as connection:
        declared = connection.default_channel.queue_declare(
            queue_name(settings.queue_prefix, Priority.BATCH), passive=True
        )
        return int(declared.message_count)


def test_a_batch_is_on_the_queue_when_publish_returns(settings: Settings) -> None:
    """Twice, since the broker's numbers go on counting on the same channel."""
    publisher = Publisher(settings)
    assert publisher.publish([WakeUp(job_id=f"job-{n}", fence=0, priority=Priority.BATCH) for n in range(200)])
    assert waiting(settings) == 200
    assert publisher.publish([WakeUp(job_id="one-more", fence=0, priority=Priority.BATCH)])
    assert waiting(settings) == 201
    publisher.close()


def test_a_broker_that_is_cut_off_is_an_answer_not_a_hang(settings: Settings) -> None:
    """The wake-ups of a batch that was not confirmed count as not sent; later ones are, on a new connection."""
    service = urlsplit(settings.broker_url)
    proxy = Proxy(service.hostname or "127.0.0.1", service.port or 5672)
    account = service.netloc.rpartition("@")[0]
    place = f"{account}@127.0.0.1:{proxy.port}" if account else f"127.0.0.1:{proxy.port}"
    through = Settings(broker_url=service._replace(netloc=place).geturl(), queue_prefix=settings.queue_prefix)
    publisher = Publisher(through)
    assert publisher.publish([WakeUp(job_id="first", fence=0, priority=Priority.BATCH)])

    proxy.cut()
    assert not publisher.publish([WakeUp(job_id="lost", fence=0, priority=Priority.BATCH)])
    proxy.open()

    again = Publisher(through)
    assert again.publish([WakeUp(job_id="second", fence=0, priority=Priority.BATCH)])
    assert waiting(settings) == 2
    again.close()
    publisher.close()
    proxy.close()


def test_confirms_out_of_order_are_all_counted(settings: Settings) -> None:
    """One that overtakes, then "all up to", then the rest: the wait ends with the last, and not before."""
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
