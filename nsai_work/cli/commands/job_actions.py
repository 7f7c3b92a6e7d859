"""``nsai-work cancel``, ``retry`` and ``promote``: change jobs and their checkpoints."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer
from pydantic import JsonValue

from crucible.errors import InvalidRequest
from nsai_work.cli.job_lookup import find_job
from nsai_work.cli.output.stdout import write_json, write_line
from nsai_work.cli.parameters import JobId, JobIds, JsonFlag, Tag
from nsai_work.cli.store_access import existing_store, load_settings
from nsai_work.lifecycle import JobStatus
from nsai_work.presentation.json_forms import checkpoint_json

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import Store

PAGE = 500


def cancel(job_id: JobIds = None, tag: Tag = None, json_output: JsonFlag = False) -> None:
    """Cancel jobs: immediately if they are waiting, within one step if they are running.

    With --tag, all jobs with the tag that have not ended.
    """
    store = existing_store(job_id=" ".join(job_id or []) or None)
    ids = _chosen(store, job_id, tag, lambda status: not status.ended)

    def change(chosen: str) -> str:
        store.request_cancel(chosen)
        job = store.get(chosen)
        if job.status is not JobStatus.CANCELED and not json_output:
            write_line(_not_yet_canceled(job), err=True)
        return job.status

    _change(ids, change, json_output, one=_is_one(job_id, tag))


def _not_yet_canceled(job: "Job") -> str:
    """The text about a job that was to be canceled, and is not."""
    if job.status.ended:
        return f"job {job.id} had ended before"
    waits = f" ({job.wait_reason})" if job.wait_reason else ""
    return f"job {job.id} is canceled by its worker, at its next step{waits}"


def retry(job_id: JobIds = None, tag: Tag = None, json_output: JsonFlag = False) -> None:
    """Requeue jobs that failed, were canceled or timed out.

    With --tag, all such jobs with the tag. A training job resumes from its newest checkpoint.
    """
    from nsai_work.client.handle import JobHandle

    settings = load_settings()
    store = existing_store(settings, job_id=" ".join(job_id or []) or None)
    ids = _chosen(store, job_id, tag, lambda status: status.ended and status is not JobStatus.SUCCEEDED)
    if not job_id:
        # the oldest first: a job is retried after those that it depends on
        ids.reverse()
    _change(ids, lambda chosen: JobHandle(chosen, settings).retry(), json_output, one=_is_one(job_id, tag))


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


def _chosen(
    store: "Store", parts: Sequence[str] | None, tag: str | None, is_meant: Callable[[JobStatus], bool]
) -> list[str]:
    """Return the ids of the jobs that are named, each once, and of those with the tag whose status is meant.

    All names are looked up before any job is changed. Raises as ``find_job``, and InvalidRequest without any name.
    """
    if not parts and tag is None:
        raise InvalidRequest("ID: give at least one ID, or --tag")
    from nsai_work.store.records import JobFilter

    found = [find_job(store, part).id for part in parts or []]
    after = None
    while tag is not None:
        page = store.list_jobs(JobFilter(tag=tag), limit=PAGE, after=after)
        found += [job.id for job in page if is_meant(job.status)]
        if len(page) < PAGE:
            break
        after = page[-1].id
    return list(dict.fromkeys(found))


def _is_one(parts: Sequence[str] | None, tag: str | None) -> bool:
    return tag is None and len(parts or []) == 1


def _change(ids: Sequence[str], change: Callable[[str], str], json_output: bool, *, one: bool) -> None:
    """Change jobs and write their new statuses: as JSON an object for one ID, else a list. After an error, those
    of the jobs before it are written."""
    changed: list[JsonValue] = []
    try:
        for job_id in ids:
            changed.append({"id": job_id, "status": (status := str(change(job_id)))})
            if not json_output:
                write_line(f"{job_id} {status}")
    finally:
        if json_output and (changed or not one):
            write_json(changed[0] if one else changed)
    if not ids and not json_output:
        write_line("no job with this tag is to be changed", err=True)
