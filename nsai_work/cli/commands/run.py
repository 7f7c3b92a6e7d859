"""``nsai-work run``: runs jobs in this process, without a worker."""

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue
from rich.console import Console

from nsai_work.cli.exit_codes import ExitCode, status_exit_code
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.job_view import view_of_jobs
from nsai_work.cli.output.run_outcome import write_outcome
from nsai_work.cli.output.stdout import others_on_stderr, write_json
from nsai_work.cli.parameters import NoCheckData
from nsai_work.cli.store_access import existing_store, get_store, load_settings
from nsai_work.errors import JobNotFound
from nsai_work.identifiers import is_job_id
from nsai_work.presentation.json_forms import as_json

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.settings import Settings
    from nsai_work.store import EventRow

STOPPING = "stopping: finishing or handing over work in progress; press Ctrl-C again to stop immediately"
JOB_FILE_SUFFIXES = (".yaml", ".yml", ".json")


def run(
    target: Annotated[
        str,
        typer.Argument(
            metavar="FILE|ID", help="YAML or JSON file with a job or a list of jobs; or the ID of a submitted job."
        ),
    ],
    no_check_data: NoCheckData = False,
    json_output: Annotated[
        bool, typer.Option("--json", help="Print the job as JSON when it ends; a list if there are several.")
    ] = False,
) -> None:
    """Submit the jobs of a file and run them in this process, or continue a submitted job.

    Ctrl-C returns jobs to the queue, where run ID or a worker resumes them; a second Ctrl-C stops immediately.
    """
    settings = load_settings()
    with others_on_stderr():
        jobs = _jobs(target, settings, check_data=not no_check_data)
        _run_jobs([job for job in jobs if not job.status.ended], settings)
    store = get_store(settings)
    jobs = [store.get(job.id) for job in jobs]
    if json_output:
        records: list[JsonValue] = [as_json(job) for job in jobs]
        write_json(records[0] if len(records) == 1 else records)
    else:
        for job in jobs:
            write_outcome(job, with_id=len(jobs) > 1)
    if not all(job.status.ended for job in jobs):
        raise typer.Exit(ExitCode.INTERRUPTED)
    raise typer.Exit(max(status_exit_code(job.status) for job in jobs))


def _jobs(target: str, settings: "Settings", *, check_data: bool) -> "list[Job]":
    """Submit the jobs of a file, or find the job with an ID."""
    path = Path(target)
    if not is_job_id(target) and (path.exists() or "/" in target or path.suffix in JOB_FILE_SUFFIXES):
        from nsai_work.cli.output.data_progress import data_progress
        from nsai_work.client.jobfile import load_jobs
        from nsai_work.client.submit import submit_many

        jobs = load_jobs(path)
        with data_progress() as on_progress:
            handles = submit_many(jobs, settings, runs_here=True, check_data=check_data, on_progress=on_progress)
        return [handle.job() for handle in handles]
    try:
        return [find_job(existing_store(settings, job_id=target), target)]
    except JobNotFound as error:
        raise JobNotFound(f"{target!r} is neither a file nor a job: {error.message}") from None


def _run_jobs(jobs: "Sequence[Job]", settings: "Settings") -> None:
    if not jobs:
        return
    from nsai_work.cli.output.shown_events import log_without_shown_events
    from nsai_work.store.worker_id import is_this_process
    from nsai_work.telemetry.logs import writes_json
    from nsai_work.worker import run_inline

    elsewhere: set[str] = set()

    def on_event(event: "EventRow") -> None:
        if event.name == "job.running":
            here = is_this_process(str(event.data.get("worker_id")))
            (elsewhere.discard if here else elsewhere.add)(event.job_id)
        view.show(event)

    def on_stopping() -> None:
        # a job of another worker is not affected
        if len(elsewhere) < len(jobs):
            view.write_line(STOPPING, "yellow")

    # a level that is asked for, and a log for machines, are complete
    whole = "log_level" in settings.model_fields_set or writes_json()
    with nullcontext() if whole else log_without_shown_events(), view_of_jobs(Console(stderr=True), jobs) as view:
        for job in jobs:
            view.write_line(f"job {job.id}")
        try:
            run_inline([job.id for job in jobs], settings, on_event=on_event, on_stopping=on_stopping)
        except KeyboardInterrupt:
            # the second Ctrl-C: the next owner finds the work in progress in the journal
            view.write_line("stopped immediately")
