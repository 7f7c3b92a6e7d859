"""``nsai-work run``: submit a job and work it in this process. No server, no worker."""

from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from nsai_work.cli.error_report import describe_failure
from nsai_work.cli.exit_codes import ExitCode, exit_code_for
from nsai_work.cli.job_result import result_facts
from nsai_work.cli.job_view import steps_wanted, view_for
from nsai_work.cli.output import as_json, write_json, write_pairs
from nsai_work.cli.parameters import JobFile
from nsai_work.cli.store_access import read_settings, the_store
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind

if TYPE_CHECKING:
    from nsai_work.job import Job

STOPPING = "stopping: what is under way is finished or handed over first; Ctrl-C again stops at once"


def run(
    file: JobFile,
    json_output: Annotated[bool, typer.Option("--json", help="Print the job as JSON at the end.")] = False,
) -> None:
    """Submit a job and work it here, with a progress bar. Ctrl-C stops it cleanly; it can be resumed."""
    from nsai_work.client.jobfile import load_job
    from nsai_work.client.submit import submit
    from nsai_work.worker import run_inline

    settings = read_settings()
    wanted = load_job(file)
    handle = submit(wanted, settings)
    with view_for(Console(stderr=True), total=steps_wanted(wanted)) as view:
        view.say(f"job {handle.id}")
        try:
            run_inline([handle.id], settings, on_event=view.see, on_stopping=lambda: view.say(STOPPING, "yellow"))
        except KeyboardInterrupt:
            # the second Ctrl-C: what was under way is found in the journal by whoever goes on
            view.say("stopped at once")
    job = the_store(settings).get(handle.id)
    if json_output:
        write_json(as_json(job))
    else:
        _tell_the_end(job)
    raise typer.Exit(exit_code_for(job.status) if job.status.ended else ExitCode.INTERRUPTED)


def _tell_the_end(job: "Job") -> None:
    if job.status is JobStatus.SUCCEEDED:
        write_pairs(_result_facts(job))
    elif job.status.ended:
        typer.echo(describe_failure(job.error) if job.error else f"{job.status}", err=True)
        typer.echo(
            f"  to go on from its newest checkpoint: nsai-work retry {job.id}, then nsai-work worker", err=True
        )
    else:
        typer.echo(f"stopped; nothing is lost. To go on: nsai-work worker (job {job.id} is {job.status})", err=True)


def _result_facts(job: "Job") -> list[tuple[str, object]]:
    facts: list[tuple[str, object]] = [("status", job.status), *result_facts(job.result)]
    model = (job.result or {}).get("model")
    if model and job.kind is JobKind.TRAINING_STEP:
        command = f"nsai-work complete --backend {job.backend} --temperature 0 --model {model}"
        facts.append(("try it", f'{command} "your prompt"'))
    return facts
