"""How Celery's consumer treats what is on our queues: acknowledge, decode, hand over. No pool is involved.

Celery's own handler makes a request object for each message and a pool slot busy, and a message of the wrong shape
ends the worker. Here nothing on a queue can: what is no wake-up is acknowledged, counted and logged by the inbox.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from nsai_work.dispatch.wakeup import TASK_NAME, BadWakeUp, decode

logger = logging.getLogger(__name__)

# delays live in the store, so the exchanges that Celery declares for delayed delivery are not wanted
_UNWANTED = {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}


class WakeConsumer(Consumer):  # type: ignore[misc]  # celery is untyped
    """A consumer of wake-ups."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps without delayed delivery."""

        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if step not in _UNWANTED)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # a transport may choke on rubbish before we see it; Celery would end the worker and with it every running
        # job, where a new connection is all that is needed
        self.connection_errors = (Exception,)

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[Any], None]:
        """The handler of every message."""
        inbox = self.app.inbox
        errors = self.connection_errors

        def on_message(message: Any) -> None:
            # first: what comes after may fail, and the message is of no use a second time
            message.ack_log_error(logger, errors)
            inbox.put(decode(message.body) if _is_wake(message.headers) else BadWakeUp.UNKNOWN_TASK)

        return on_message


def _is_wake(headers: object) -> bool:
    return isinstance(headers, dict) and headers.get("task") == TASK_NAME
