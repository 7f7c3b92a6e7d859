"""``nsai-work run``: submits a job and runs it in this process, without a worker."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nsai_work.cli.error_report import describe_failure
from nsai_work.cli.exit_codes import ExitCode, status_exit_code
from nsai_work.cli.job_result import result_fields
from nsai_work.cli.job_view import requested_steps, view_for
from nsai_work.cli.output import as_json, write_fields, write_json
from nsai_work.cli.store_access import get_store, load_settings
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind

if TYPE_CHECKING:
    from nsai_work.job import Job

STOPPING = "stopping: finishing or handing over work in progress; press Ctrl-C again to stop immediately"


def run(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON file with a job.")],
    json_output: Annotated[bool, typer.Option("--json", help="Print the job as JSON when it ends.")] = False,
) -> None:
    """Submit a job and run it in this process, with a progress bar.

    Ctrl-C returns the job to the queue, where a worker resumes it; a second Ctrl-C stops immediately.
    """
    from nsai_work.client.jobfile import load_job
    from nsai_work.client.submit import submit
    from nsai_work.worker import run_inline

    settings = load_settings()
    job = load_job(file)
    handle = submit(job, settings)
    with view_for(Console(stderr=True), total=requested_steps(job)) as view:
        view.write_line(f"job {handle.id}")
        try:
            run_inline(
                [handle.id],
                settings,
                on_event=view.show,
                on_stopping=lambda: view.write_line(STOPPING, "yellow"),
            )
        except KeyboardInterrupt:
            # the second Ctrl-C: the next owner finds the work in progress in the journal
            view.write_line("stopped immediately")
    job = get_store(settings).get(handle.id)
    if json_output:
        write_json(as_json(job))
    else:
        _write_outcome(job)
    raise typer.Exit(status_exit_code(job.status) if job.status.ended else ExitCode.INTERRUPTED)


def _write_outcome(job: "Job") -> None:
    if job.status is JobStatus.SUCCEEDED:
        write_fields(_success_fields(job))
    elif job.status.ended:
        typer.echo(describe_failure(job.error) if job.error else f"{job.status}", err=True)
        typer.echo(
            f"  to resume from the newest checkpoint: nsai-work retry {job.id}, then nsai-work worker", err=True
        )
    else:
        typer.echo(f"stopped; job {job.id} is {job.status}. To resume it: nsai-work worker", err=True)


def _success_fields(job: "Job") -> list[tuple[str, object]]:
    fields: list[tuple[str, object]] = [("status", job.status), *result_fields(job.result)]
    model = (job.result or {}).get("model")
    if model and job.kind is JobKind.TRAINING_STEP:
        command = f"nsai-work complete --backend {job.backend} --temperature 0 --model {model}"
        fields.append(("try it", f'{command} "your prompt"'))
    return fields
