"""``nsai-work submit``: check a job file, store its jobs, wake a worker."""

import time
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from nsai_work.cli.commands.watch import MAX_PAUSE_S
from nsai_work.cli.exit_codes import ExitCode, exit_code_for
from nsai_work.cli.output import write_json
from nsai_work.cli.parameters import JobFile, Timeout
from nsai_work.cli.store_access import read_settings, the_store

if TYPE_CHECKING:
    from nsai_work.store import Store


def submit(
    file: JobFile,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until every job has ended.")] = False,
    timeout: Timeout = None,
    json_output: Annotated[
        bool, typer.Option("--json", help='Print {"id": ...}; a list of them for a list.')
    ] = False,
) -> None:
    """Submit the jobs of a file. Nothing is stored unless every one of them is right."""
    from nsai_work.client.jobfile import load_jobs
    from nsai_work.client.submit import submit_many

    settings = read_settings()
    jobs = load_jobs(file)
    ids = [handle.id for handle in submit_many(jobs, settings)]
    if json_output:
        written: list[JsonValue] = [{"id": job_id} for job_id in ids]
        write_json(written[0] if len(written) == 1 else written, indent=None)
    else:
        typer.echo("\n".join(ids))
    if wait:
        raise typer.Exit(_wait(the_store(settings), ids, timeout))


def _wait(store: "Store", ids: list[str], timeout_s: float | None) -> ExitCode:
    from nsai_work.client.follow import wait_for_end

    deadline = None if timeout_s is None else time.monotonic() + timeout_s
    worst = ExitCode.DONE
    for job_id in ids:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            job = wait_for_end(partial(store.get, job_id), job_id, left, MAX_PAUSE_S)
        except TimeoutError:
            typer.echo(f"error: {job_id} has not ended after {timeout_s:g} s; it continues", err=True)
            return ExitCode.WAIT_TIMEOUT
        worst = max(worst, exit_code_for(job.status))
    return worst
