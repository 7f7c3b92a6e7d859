"""The tests leave no queue on the broker: RabbitMQ reserves file handles for each, until it answers nobody."""

from pathlib import Path

import pytest
from amqp.exceptions import NotFound

from nsai_work.dispatch.broker import broker_connection
from nsai_work.dispatch.publisher import Publisher
from nsai_work.dispatch.queues import queue_name
from nsai_work.job import Priority
from nsai_work.settings import Settings
from nsai_work.store import WakeUp
from tests.rig import Rig


def _exists(settings: Settings, priority: Priority) -> bool:
    with broker_connection(settings) as connection:
        try:
            connection.default_channel.queue_declare(queue_name(settings.queue_prefix, priority), passive=True)
        except NotFound:
            return False
        return True


@pytest.mark.amqp
def test_a_rig_deletes_the_queues_of_every_prefix(amqp_url: str, tmp_path: Path) -> None:
    """Also those of prefixes other than its own."""
    rig = Rig(tmp_path, f"sqlite:///{tmp_path}/jobs.db", amqp_url)
    used = [rig.settings(), rig.settings(queue_prefix=f"{rig.prefix}-other")]
    for settings in used:
        publisher = Publisher(settings)
        assert publisher.publish([WakeUp(job_id="job", fence=0, priority=Priority.BATCH)])
        publisher.close()
        assert all(_exists(settings, priority) for priority in Priority)

    rig.close()

    assert not any(_exists(settings, priority) for settings in used for priority in Priority)
