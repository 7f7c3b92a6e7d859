"""``nsai-work workers`` and ``queue``: who works, and what waits for what."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from nsai_work.cli.commands.limits import limit_json, limit_labels
from nsai_work.cli.output import ago, duration_text, write_json, write_line, write_table
from nsai_work.cli.parameters import JsonFlag
from nsai_work.cli.store_access import get_store, load_settings, missing_store
from nsai_work.job import Priority

if TYPE_CHECKING:
    from nsai_work.store.records import WorkerUse


def workers(
    every: Annotated[bool, typer.Option("--all", help="Also workers that have ended.")] = False,
    json_output: JsonFlag = False,
) -> None:
    """List the workers, newest first: whether they are alive, their load and their backends."""
    settings = load_settings()
    uses = [] if missing_store(settings) else get_store(settings).worker_uses()
    uses = [use for use in uses if use.alive or every]
    if json_output:
        write_json([_worker_json(use) for use in uses])
        return
    now = datetime.now(UTC)
    rows = [
        (
            use.worker.id[-8:],
            "yes" if use.alive else "stopped" if use.worker.stopped_at else "gone",
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
        depths: list[JsonValue] = [
            {
                "priority": str(depth.priority),
                "ready": depth.ready,
                "later": depth.later,
                "oldest_age_s": round(depth.oldest_age_s, 3),
            }
            for depth in status.depths
        ]
        waits: list[JsonValue] = [{"reason": wait.reason, "jobs": wait.jobs} for wait in status.waits]
        write_json({"priorities": depths, "limits": [limit_json(use) for use in status.limits], "waits": waits})
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


def _worker_json(use: "WorkerUse") -> JsonValue:
    worker = use.worker
    return {
        "id": worker.id,
        "alive": use.alive,
        "running": use.running,
        "host": worker.host,
        "pid": worker.pid,
        "version": worker.version,
        "backends": {**worker.backends},
        "declined": {**(worker.declined or {})},
        "priorities": None if worker.priorities is None else [*worker.priorities],
        "started_at": worker.started_at.isoformat(),
        "seen_at": worker.seen_at.isoformat(),
        "stopped_at": None if worker.stopped_at is None else worker.stopped_at.isoformat(),
    }
