"""``nsai-work cancel``, ``retry`` and ``promote``: change jobs and their checkpoints."""

from typing import Annotated

import typer

from nsai_work.cli.commands.jobs import checkpoint_json
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output import write_json, write_line
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import existing_store, load_settings


def cancel(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Cancel a job: immediately if it is waiting, within one step if it is running."""
    store = existing_store(job_id=job_id)
    job = find_job(store, job_id)
    store.request_cancel(job.id)
    _write_status(job.id, store.get(job.id).status, json_output)


def retry(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Requeue a job that failed, was canceled or timed out.

    A training job resumes from its newest checkpoint.
    """
    from nsai_work.client.handle import JobHandle

    settings = load_settings()
    handle = JobHandle(find_job(existing_store(settings, job_id=job_id), job_id).id, settings)
    _write_status(handle.id, handle.retry(), json_output)


def promote(
    job_id: JobId,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="Name of the checkpoint, as listed by nsai-work checkpoints.")
    ],
    json_output: JsonFlag = False,
) -> None:
    """Keep a checkpoint permanently, regardless of the checkpoint policy."""
    from nsai_work.client.handle import JobHandle

    settings = load_settings()
    checkpoint = JobHandle(find_job(existing_store(settings, job_id=job_id), job_id).id, settings).promote(name)
    if json_output:
        write_json(checkpoint_json(checkpoint))
    else:
        write_line(f"{name} is kept permanently: {checkpoint.path}")


def _write_status(job_id: str, status: str, json_output: bool) -> None:
    if json_output:
        write_json({"id": job_id, "status": status})
    else:
        write_line(f"{job_id} {status}")
