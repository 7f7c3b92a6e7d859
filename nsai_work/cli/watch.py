"""``nsai-work watch``: follow a job live, from any process."""

from typing import Annotated

import typer
from pydantic import JsonValue
from rich.console import Console

from nsai_work.cli.exit_codes import ExitCode, exit_code_for
from nsai_work.cli.follow import follow
from nsai_work.cli.inspect_jobs import JobId
from nsai_work.cli.job_id import find_job
from nsai_work.cli.opening import the_store
from nsai_work.cli.output import write_json
from nsai_work.cli.report import describe_failure
from nsai_work.cli.run_progress import JobEvent
from nsai_work.cli.views import steps_wanted, view_for

Timeout = Annotated[float | None, typer.Option(min=0, help="Stop waiting after so many seconds (exit code 124).")]


def watch(
    job_id: JobId,
    timeout: Timeout = None,
    json_output: Annotated[bool, typer.Option("--json", help="One JSON object a line, one line an event.")] = False,
) -> None:
    """Follow a job until it ends. The exit code says how it ended."""
    store = the_store()
    job = find_job(store, job_id)
    if json_output:
        status = follow(store, job.id, lambda event: write_json(event_json(event), indent=None), timeout_s=timeout)
    else:
        with view_for(Console(), total=steps_wanted(job)) as view:
            status = follow(store, job.id, view.see, timeout_s=timeout)
    if status is None:
        typer.echo(f"error: {job.id} has not ended after {timeout:g} s; it goes on", err=True)
        raise typer.Exit(ExitCode.WAIT_TIMEOUT)
    error = store.get(job.id).error
    if error is not None and not json_output:
        typer.echo(describe_failure(error), err=True)
    raise typer.Exit(exit_code_for(status))


def event_json(event: JobEvent) -> dict[str, JsonValue]:
    """An event as data."""
    return {"seq": event.seq, "at": event.at.isoformat(), "name": event.name, "data": dict(event.data)}
