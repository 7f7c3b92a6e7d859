"""The part of a service client that its sampling and training clients share."""

from typing import Protocol

from backends.tinkex.client.requests.connection import Connection
from backends.tinkex.client.requests.queue_reporter import QueueObserver
from backends.tinkex.client.requests.runner import Runner


class RequestContext(Protocol):
    """The connection, event loop and limits with which requests are made.

    ``no_progress_s`` bounds how long the server may keep a request active without finishing it.
    """

    connection: Connection
    runner: Runner
    observer: QueueObserver | None
    no_progress_s: float
