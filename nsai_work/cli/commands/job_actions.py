"""``cancel``, ``retry`` and ``promote``: what a person may do to a job from outside."""

from typing import Annotated

import typer

from nsai_work.cli.commands.jobs import checkpoint_json
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output import write_json
from nsai_work.cli.parameters import JobId, JsonFlag
from nsai_work.cli.store_access import read_settings, the_store


def cancel(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Cancel a job: at once if it waits, within one step if it runs."""
    store = the_store()
    job = find_job(store, job_id)
    store.request_cancel(job.id)
    _say(store.get(job.id).status, job.id, json_output)


def retry(job_id: JobId, json_output: JsonFlag = False) -> None:
    """Queue a job again that failed, was canceled or timed out; it goes on from its newest checkpoint."""
    from nsai_work.client.handle import JobHandle

    settings = read_settings()
    handle = JobHandle(find_job(the_store(settings), job_id).id, settings)
    _say(handle.retry(), handle.id, json_output)


def promote(
    job_id: JobId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A checkpoint's name, as checkpoints lists it.")],
    json_output: JsonFlag = False,
) -> None:
    """Keep a checkpoint for good, whatever the checkpoint policy says."""
    from nsai_work.client.handle import JobHandle

    settings = read_settings()
    kept = JobHandle(find_job(the_store(settings), job_id).id, settings).promote(name)
    if json_output:
        write_json(checkpoint_json(kept))
    else:
        typer.echo(f"{name} is kept for good: {kept.path}")


def _say(status: str, job_id: str, json_output: bool) -> None:
    if json_output:
        write_json({"id": job_id, "status": status})
    else:
        typer.echo(f"{job_id} {status}")
