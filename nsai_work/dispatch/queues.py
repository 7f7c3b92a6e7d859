"""The broker's queues: one per priority, so that urgent wake-ups never wait behind others."""

from kombu import Queue

from nsai_work.job import Priority


def queue_name(prefix: str, priority: Priority) -> str:
    """Return the name of a priority's queue."""
    return f"{prefix}.{priority}"


def wake_queue(prefix: str, priority: Priority, broker_url: str) -> Queue:
    """Return the queue of a priority: a replicated (quorum) queue on RabbitMQ."""
    name = queue_name(prefix, priority)
    arguments = {"x-queue-type": "quorum"} if is_amqp(broker_url) else None
    # no exchange: every broker's default exchange routes by the queue's name
    return Queue(name, exchange=None, routing_key=name, durable=True, queue_arguments=arguments)


def wake_queues(prefix: str, broker_url: str) -> list[Queue]:
    """Return the queues of all priorities, the most urgent first."""
    return [wake_queue(prefix, priority, broker_url) for priority in Priority]


def is_amqp(broker_url: str) -> bool:
    """Check whether the broker speaks AMQP."""
    return broker_url.partition("://")[0] in ("amqp", "amqps", "pyamqp")
