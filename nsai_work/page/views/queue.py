"""The queue: its depth by priority, the limits with their use, and why jobs wait."""

from nsai_work.job import Priority
from nsai_work.page.views.parts.wait_line import WaitLine, wait_lines
from nsai_work.page.views.view import View, ViewQuery
from nsai_work.presentation.json_forms import limit_labels
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.queue_state import queue_state


class DepthLine(View):
    """The waiting jobs of a priority: those that are due, and those that wait for a time or another job."""

    priority: Priority
    ready: int
    later: int
    oldest_age_s: float


class LimitLine(View):
    """A limit and the number of jobs that run under it."""

    scope: str
    key: str
    model: str | None
    max_running: int | None
    running: int


class Queue(View):
    """The queue at one moment."""

    priorities: list[DepthLine]
    limits: list[LimitLine]
    waits: list[WaitLine]


def read_queue(tx: Tx, query: ViewQuery) -> Queue:
    """Read the state of the queue."""
    del query
    state = queue_state(tx)
    limits = []
    for use in state.limits:
        scope, key, model = limit_labels(use.limit)
        limits.append(
            LimitLine(scope=scope, key=key, model=model, max_running=use.limit.max_running, running=use.running)
        )
    return Queue(
        priorities=[
            DepthLine(
                priority=depth.priority, ready=depth.ready, later=depth.later, oldest_age_s=depth.oldest_age_s
            )
            for depth in state.depths
        ],
        limits=limits,
        waits=wait_lines(state.waits),
    )
