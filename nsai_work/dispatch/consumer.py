"""A Celery consumer that acknowledges and decodes each message, and passes it to the inbox. No pool is involved.

Celery's own handler creates a request and occupies a pool slot per message, and a malformed message ends the
worker. Here no message can: whatever is not a wake-up is acknowledged, then counted and logged by the inbox.
"""

import logging
from collections.abc import Callable
from typing import Any

from celery.worker.consumer import Consumer

from nsai_work.dispatch.wakeup import TASK_NAME, BadWakeUp, decode

logger = logging.getLogger(__name__)

# the store keeps delays, so Celery's exchanges for delayed delivery are not declared
_OMITTED_STEPS = {"celery.worker.consumer.delayed_delivery:DelayedDelivery"}


class WakeConsumer(Consumer):  # type: ignore[misc]  # celery is untyped
    """A consumer of wake-ups that survives any message."""

    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        """Celery's steps without delayed delivery."""

        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if step not in _OMITTED_STEPS)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # a transport may raise any error on a malformed message; Celery would end the worker, and with it every
        # running job, although a new connection suffices
        self.connection_errors = (Exception,)

    def create_task_handler(self, *_: Any, **__: Any) -> Callable[[Any], None]:
        """Return the handler of all messages."""
        inbox = self.app.inbox
        errors = self.connection_errors

        def on_message(message: Any) -> None:
            # acknowledged first: the rest may fail, and a redelivery would be of no use
            message.ack_log_error(logger, errors)
            inbox.put(decode(message.body) if _is_wake(message.headers) else BadWakeUp.UNKNOWN_TASK)

        return on_message


def _is_wake(headers: object) -> bool:
    return isinstance(headers, dict) and headers.get("task") == TASK_NAME
