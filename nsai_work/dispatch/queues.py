"""One queue per priority, so that an urgent wake-up never waits behind a heap of others."""

from kombu import Queue

from nsai_work.job import Priority


def queue_name(prefix: str, priority: Priority) -> str:
    """Where wake-ups of this priority go."""
    return f"{prefix}.{priority}"


def wake_queue(prefix: str, priority: Priority, broker_url: str) -> Queue:
    """The queue of a priority; replicated (quorum) on RabbitMQ."""
    name = queue_name(prefix, priority)
    arguments = {"x-queue-type": "quorum"} if is_amqp(broker_url) else None
    # no exchange of our own: every broker routes the default one by the queue's name
    return Queue(name, exchange=None, routing_key=name, durable=True, queue_arguments=arguments)


def wake_queues(prefix: str, broker_url: str, priorities: "list[Priority] | None" = None) -> list[Queue]:
    """The queues of these priorities (all of them by default), most urgent first."""
    return [wake_queue(prefix, priority, broker_url) for priority in priorities or list(Priority)]


def is_amqp(broker_url: str) -> bool:
    """Whether the broker speaks AMQP."""
    return broker_url.partition("://")[0] in ("amqp", "amqps", "pyamqp")
