"""Broker connections whose operations all have timeouts."""

from typing import Any

from kombu import Connection

from nsai_work.dispatch.queues import is_amqp
from nsai_work.dispatch.spool import register_spool
from nsai_work.settings import Settings

CONNECT_TIMEOUT_S = 2.0


def transport_options(settings: Settings) -> dict[str, Any]:
    """Return the options of the broker's kombu transport."""
    if settings.embedded_broker:
        return {"polling_interval": settings.spool_poll_ms / 1000}
    if is_amqp(settings.broker_url):
        return {"read_timeout": 5, "write_timeout": 5}
    # wake-ups are acknowledged on receipt, so those of a dead worker can be redelivered soon
    return {
        "visibility_timeout": 60,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_timeout": 5.0,
        "health_check_interval": 10,
        "retry_on_timeout": False,
    }


def broker_connection(settings: Settings) -> Connection:
    """Create a connection that opens on first use."""
    register_spool()
    return Connection(
        settings.broker_url, connect_timeout=CONNECT_TIMEOUT_S, transport_options=transport_options(settings)
    )
