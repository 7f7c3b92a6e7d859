"""``nsai-work workers`` and ``queue``: the workers, and the waiting jobs with their reasons."""

from datetime import UTC, datetime
from typing import Annotated

import typer

from nsai_work.cli.output.stdout import write_json, write_line, write_table
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import get_store, load_settings, missing_store
from nsai_work.job import Priority
from nsai_work.presentation.json_forms import limit_labels, queue_json, worker_json
from nsai_work.presentation.quantities import ago, duration_text


def workers(
    every: Annotated[bool, typer.Option("--all", help="Also workers that have ended.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """List the workers, newest first: whether they are alive, their load and their backends.

    One that is absent has died, or, with PostgreSQL, lost its connection a moment ago.
    """
    settings = load_settings()
    uses = [] if missing_store(settings) else get_store(settings).worker_uses()
    uses = [use for use in uses if every or not use.ended]
    if json_output:
        write_json([worker_json(use) for use in uses])
        return
    now = datetime.now(UTC)
    rows = [
        (
            use.worker.id[-8:],
            "yes" if use.state == "alive" else use.state,
            use.running,
            use.worker.host,
            use.worker.pid,
            use.worker.version,
            ago(use.worker.seen_at, now),
            sorted(set(use.worker.backends) - set(use.worker.declined or {})),
        )
        for use in uses
    ]
    headings = ("ID", "ALIVE", "RUNNING", "HOST", "PID", "VERSION", "SEEN", "BACKENDS")
    write_table(headings, rows, if_empty="no worker is alive; nsai-work worker starts one")


def queue(json_output: JsonFlag = False) -> None:
    """Show what waits: the depth and age of the queue by priority, the limits with their use, and the reasons."""
    from nsai_work.store.records import QueueCount, QueueStatus

    settings = load_settings()
    empty = QueueStatus([QueueCount(priority, 0, 0, 0.0) for priority in Priority], [], [])
    status = empty if missing_store(settings) else get_store(settings).queue()
    if json_output:
        write_json(queue_json(status))
        return
    rows = [
        (depth.priority, depth.ready, depth.later, duration_text(depth.oldest_age_s) if depth.ready else None)
        for depth in status.depths
    ]
    write_table(("PRIORITY", "READY", "LATER", "OLDEST"), rows, if_empty="")
    if status.limits:
        write_line()
        limits = [(*limit_labels(use.limit), use.running, use.limit.max_running) for use in status.limits]
        write_table(("LIMIT", "NAME", "MODEL", "RUNNING", "MAX"), limits, if_empty="")
    if status.waits:
        write_line()
        write_table(("JOBS", "WAIT BECAUSE"), [(wait.jobs, wait.reason) for wait in status.waits], if_empty="")
