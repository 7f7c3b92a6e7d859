"""Continuation of a training job that has ended: a new job with its optimizer, its data and its step numbers."""

from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any

from crucible.errors import InvalidRequest
from nsai_work.client.checkpoints.job_model import FINAL, model_of_job
from nsai_work.client.connections import job_store
from nsai_work.client.handle import JobHandle
from nsai_work.client.local_files import LocalFiles
from nsai_work.client.submit import submit_as
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import DataFile, DataSource, TrainingStep
from nsai_work.payloads.files import input_files, with_paths
from nsai_work.payloads.reads import job_reads
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.store import Store


def extend(
    job_id: str,
    steps: int,
    settings: Settings | None = None,
    *,
    schedule: Mapping[str, object] | None = None,
    checkpoint: str = FINAL,
) -> JobHandle:
    """Submit a job that goes on with a training job for ``steps`` more steps.

    A ``schedule`` begins with the first of them; without one, that of the first job goes on, if it is constant.
    ``checkpoint`` is as for ``init_from``. The files of the first job are read from the blob store.

    Raises:
        JobNotFound: there is no such job.
        InvalidRequest, NotFound: it trains nothing, has not succeeded, or has no such checkpoint.
        InvalidJob: the learning rate decays to the end of the first job, and no ``schedule`` is given.
        CrucibleError: as ``submit``.
    """
    settings = settings or Settings()
    store = job_store(settings)
    first = store.get(job_id)
    payload = first.parsed_payload
    if isinstance(payload, TrainingStep) and first.status is not JobStatus.SUCCEEDED:
        otherwise = "any other is retried" if first.status.ended else "wait for it"
        raise InvalidRequest.of(
            "job", first.id, f"it is {first.status}; only a job that has succeeded goes on; {otherwise}"
        )
    model = model_of_job(store, first, checkpoint)
    assert isinstance(payload, TrainingStep)
    if steps < 1:
        raise InvalidRequest.of("steps", steps, "at least 1")
    if checkpoint != FINAL:
        choice: str | int = int(checkpoint) if checkpoint.isdigit() else checkpoint
    else:
        choice = FINAL
    begin = model.checkpoint.step
    changes: dict[str, Any] = {
        "max_steps": begin + steps,
        "epochs": None,
        "init_from": None,
        "continue_from": {"job": first.id, "checkpoint": choice, "step": begin},
    }
    if schedule is not None:
        changes["schedule"] = {**schedule, "from_step": begin}
    return _submitted(store, settings, first, _with_payload(first, changes))


def _with_payload(first: Job, changes: dict[str, Any]) -> Job:
    """The new job: with the settings of the first, without its id, its key and its times."""
    constraints = first.constraints.model_dump(
        mode="json", exclude={"depends_on", "not_before", "deadline"}, exclude_none=True
    )
    kept = first.model_dump(
        mode="json",
        include={"kind", "backend", "name", "priority", "tenant_id", "namespace", "owner", "tags", "resources",
                 "retry_policy", "metadata"},
        exclude_none=True,
    )  # fmt: skip
    payload = {**first.payload, **changes}
    return Job.parse({**kept, "constraints": constraints, "parent_id": first.id, "payload": payload})


def _submitted(store: "Store", settings: Settings, first: Job, new: Job) -> JobHandle:
    with ExitStack() as held:
        local = LocalFiles(store, settings).localized(first.id, new.parsed_payload, held)
        paths = {str(file.source.sha256): file.source.path for file in input_files(new.parsed_payload)}
        checked = new.model_copy(update={"payload": local.model_dump(mode="json")})
        return submit_as(partial(_with_names, paths), [checked], settings)[0]


def _with_names(paths: dict[str, str], job: Job) -> Job:
    """The job with the paths of its files where the first job had them: what is read are the blobs."""

    def path_of(source: DataFile | DataSource) -> str:
        return paths.get(str(source.sha256), source.path)

    return job.model_copy(update={"payload": with_paths(job.parsed_payload, path_of).model_dump(mode="json")})


def run_line(store: "Store", job: Job) -> list[Job]:
    """Return the jobs of a run that was continued: those before this one, this one, and those after it."""
    from nsai_work.store.records import JobFilter

    before: list[Job] = []
    while (earlier := _continued(before[0] if before else job)) is not None:
        before.insert(0, store.get(earlier))
    after: list[Job] = []
    ends = [job]
    while ends:
        followers = store.list_jobs(JobFilter(parent_id=ends.pop().id))
        found = [other for other in reversed(followers) if _continued(other) == other.parent_id]
        after += found
        ends += found
    return [*before, job, *after]


def _continued(job: Job) -> str | None:
    reads = [read.job for read in job_reads(job.parsed_payload) if read.field == "payload.continue_from"]
    return reads[0] if reads else None
