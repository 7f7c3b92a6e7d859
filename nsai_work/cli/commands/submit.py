"""``nsai-work submit``: validates and stores the jobs of a file, and wakes workers."""

from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from crucible.runtime.monotonic import monotonic
from nsai_work.cli.commands.watch import MAX_PAUSE_S
from nsai_work.cli.exit_codes import ExitCode, status_exit_code
from nsai_work.cli.output.error_report import report_job
from nsai_work.cli.output.stdout import others_on_stderr, write_json, write_line
from nsai_work.cli.parameters import NoCheckData, Timeout
from nsai_work.cli.store_access import get_store, load_settings
from nsai_work.errors import WaitTimedOut
from nsai_work.identifiers import new_job_id, short_id
from nsai_work.lifecycle import JobStatus

if TYPE_CHECKING:
    from nsai_work.store import Store


def submit(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="YAML or JSON file with a job or a list of jobs.")],
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="FIELD=VALUE,...",
            help="Set a field of each job; with several values, submit a job for each combination, with a tag.",
        ),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait until all jobs have ended.")] = False,
    timeout: Timeout = None,
    no_check_data: NoCheckData = False,
    json_output: Annotated[
        bool, typer.Option("--json", help='Print {"id": ...}, or a list of these for several jobs.')
    ] = False,
) -> None:
    """Submit the jobs of a file: all of them, or none if one is invalid."""
    from nsai_work.cli.output.data_progress import data_progress
    from nsai_work.client.jobfile import load_jobs
    from nsai_work.client.submit import submit_many
    from nsai_work.client.variants import VariedField, require_bounded

    if timeout is not None and not wait:
        raise InvalidRequest.of("--timeout", timeout, "nothing is waited for; add --wait")
    settings = load_settings()
    varied = [VariedField.parse(text) for text in assignments or ()]
    require_bounded(varied)
    tag = f"variants-{short_id(new_job_id(datetime.now(UTC)))}"
    jobs = load_jobs(file, varied, tag=tag)
    with others_on_stderr(), data_progress() as on_progress:
        handles = submit_many(jobs, settings, check_data=not no_check_data, on_progress=on_progress)
    ids = [handle.id for handle in handles]
    if any(len(field.values) > 1 for field in varied):
        write_line(f"{len(ids)} jobs with the tag {tag}: nsai-work compare --tag {tag}", err=True)
    if json_output:
        records: list[JsonValue] = [{"id": job_id} for job_id in ids]
        write_json(records[0] if len(records) == 1 else records, indent=None)
    else:
        write_line("\n".join(ids))
    if wait:
        raise typer.Exit(_wait(get_store(settings), ids, timeout, json_output))


def _wait(store: "Store", ids: list[str], timeout_s: float | None, json_output: bool) -> ExitCode:
    """Wait for the end of all jobs, and report each that does not succeed. Raises WaitTimedOut."""
    from nsai_work.client.follow import wait_for_end

    deadline = None if timeout_s is None else monotonic() + timeout_s
    worst = ExitCode.DONE
    for job_id in ids:
        remaining_s = None if deadline is None else max(0.0, deadline - monotonic())
        try:
            job = wait_for_end(partial(store.get, job_id), job_id, remaining_s, MAX_PAUSE_S)
        except TimeoutError:
            message = f"job {job_id} has not ended after {timeout_s:g} s; it continues"
            raise WaitTimedOut(message, details={"job_id": job_id}) from None
        if job.status is not JobStatus.SUCCEEDED:
            report_job(job, as_json=json_output)
        worst = max(worst, status_exit_code(job.status))
    return worst
