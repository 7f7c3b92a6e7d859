"""Reports how ``nsai-work run`` left a job: its result, its error, or where and how it goes on."""

from typing import TYPE_CHECKING

from nsai_work.cli.output.error_report import describe_failure
from nsai_work.cli.output.job_result import result_fields
from nsai_work.cli.output.stdout import write_fields, write_line
from nsai_work.identifiers import short_id
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.presentation.goodput_text import goodput_text

if TYPE_CHECKING:
    from nsai_work.job import Job


def write_outcome(job: "Job", *, with_id: bool = False) -> None:
    """Write the result of a job to stdout if it succeeded; else its state, and what to do next, to stderr."""
    if job.status is JobStatus.SUCCEEDED:
        write_fields([("job", job.id if with_id else None), *_success_fields(job)])
    elif job.status.ended:
        head = f"job {job.id} {job.status}\n" if with_id else ""
        write_line(head + (describe_failure(job.error) if job.error else f"{job.status}"), err=True)
        write_line(f"  {_again(job)}", err=True)
    else:
        write_line(_unfinished(job), err=True)


def _again(job: "Job") -> str:
    if job.kind is JobKind.TRAINING_STEP and job.attempt:
        return f"to resume from the newest checkpoint: nsai-work retry {job.id}, then nsai-work run {job.id}"
    return f"to run it again: nsai-work retry {job.id}, then nsai-work run {job.id}"


def _unfinished(job: "Job") -> str:
    from nsai_work.store.worker_id import is_this_process

    if job.status is JobStatus.RUNNING and job.worker_id and not is_this_process(job.worker_id):
        return (
            f"job {job.id} continues on another worker ({job.worker_id}). To follow it: nsai-work watch {job.id};"
            f" to stop it: nsai-work cancel {job.id}"
        )
    return f"stopped; job {job.id} is {job.status}. To resume it: nsai-work run {job.id}, or nsai-work worker"


def _success_fields(job: "Job") -> list[tuple[str, object]]:
    fields: list[tuple[str, object]] = [("status", job.status), *result_fields(job.result)]
    used = (job.result or {}).get("goodput")
    if isinstance(used, dict):
        fields.append(("goodput", goodput_text(used)))
    return [*fields, ("try it", try_command(job))]


def try_command(job: "Job") -> str | None:
    """Return the command that sends a prompt to the model that a training job has made; None without a model."""
    if job.status is not JobStatus.SUCCEEDED or job.kind is not JobKind.TRAINING_STEP:
        return None
    if not (job.result or {}).get("model"):
        return None
    return f'nsai-work complete --model {short_id(job.id)} --temperature 0 "your prompt"'
