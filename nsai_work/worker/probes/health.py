"""The health of a worker process, readable from any thread."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WorkerHealth:
    """The health of a worker. If it does not work, ``reason`` says why.

    ``loop_late_s`` is how late its event loop is, in seconds. Everything in a worker runs on that loop, the
    heartbeats of its leases included.
    """

    ok: bool
    reason: str | None = None
    loop_late_s: float = 0.0


NOT_STARTED = WorkerHealth(ok=False, reason="the worker has not started")
STOPPED = WorkerHealth(ok=False, reason="the worker has stopped")
