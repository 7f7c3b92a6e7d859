"""JobHandle: a job as its submitter, or anybody else in any process, sees it."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, TypeVar

from pydantic import JsonValue

from crucible.errors import Canceled, CrucibleError, Failure, error_from
from nsai_work.client.connections import job_store, send_wake_ups
from nsai_work.client.follow import Update, afollow_jobs, await_end, follow_jobs, read_update, wait_for_end
from nsai_work.errors import JobTimeout, WorkError
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.journal import CheckpointRecord, StepRecord
    from nsai_work.store import EventRow, Store

T = TypeVar("T")


class JobHandle:
    """Looks a job up in the store; keeps nothing, so it may be made anywhere from an id.

    Every method has an async twin with an ``a`` before its name, which leaves the event loop free.
    All raise JobNotFound for an unknown id and StoreUnavailable when the database does not answer.
    """

    def __init__(self, job_id: str, settings: Settings | None = None) -> None:
        self.id = job_id
        self._settings = settings or Settings()

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def job(self) -> Job:
        """The job as it is now."""
        return self._store().get(self.id)

    def status(self) -> JobStatus:
        """Where the job is in its life."""
        return self.job().status

    def steps(self) -> "list[StepRecord]":
        """One record for each optimizer step that counts, in order."""
        return list(self._store().steps(self.id))

    def checkpoints(self) -> "list[CheckpointRecord]":
        """The job's checkpoints."""
        return list(self._store().checkpoints(self.id))

    def promote(self, name: str) -> "CheckpointRecord":
        """Keep a checkpoint for good, whatever the checkpoint policy says; its expiry at the service is lifted.

        Raises:
            NotFound: the job has no checkpoint of that name, or it is gone at the service.
            InvalidRequest: it is not there any more, or not there yet.
            BackendUnavailable: the service could not be told; nothing was changed.
        """
        from nsai_work.client.promote import promote

        return promote(self._store(), self.id, name, timeout_s=self._settings.submit_timeout_s)

    def cancel(self) -> JobStatus:
        """Ask the job to stop. One that waits is canceled now; one that runs stops within a step."""
        self._store().request_cancel(self.id)
        return self.status()

    def retry(self) -> JobStatus:
        """Queue the job again, with all its attempts before it, and wake a worker. What it has recorded stays: a
        training job goes on from its newest checkpoint.

        Raises:
            IllegalTransition: it has not ended, or it succeeded.
        """
        from nsai_work.store import WakeUp

        self._store().retry(self.id)
        job = self.job()
        send_wake_ups(self._settings, [WakeUp(job_id=job.id, fence=job.fence, priority=job.priority)])
        return job.status

    def events(self, *, follow: bool = False, after: int = 0) -> "Iterator[EventRow]":
        """The job's log after entry number ``after``; with ``follow`` until the job has ended."""
        for update in follow_jobs(self._read, [self.id], after=after, until_end=follow):
            yield from update.events

    def result(self, timeout: float | None = None) -> dict[str, JsonValue]:
        """Wait for the job's end, at most ``timeout`` seconds, and return its result.

        Raises:
            CrucibleError: the job failed; the error is of the kind it failed with.
            Canceled, JobTimeout: it was canceled, or its own time limit passed.
            TimeoutError: it has not ended yet.
        """
        return outcome_of(wait_for_end(self.job, self.id, timeout))

    async def ajob(self) -> Job:
        """``job`` for async code."""
        return await asyncio.to_thread(self.job)

    async def astatus(self) -> JobStatus:
        """``status`` for async code."""
        return await asyncio.to_thread(self.status)

    async def asteps(self) -> "list[StepRecord]":
        """``steps`` for async code."""
        return await asyncio.to_thread(self.steps)

    async def acheckpoints(self) -> "list[CheckpointRecord]":
        """``checkpoints`` for async code."""
        return await asyncio.to_thread(self.checkpoints)

    async def apromote(self, name: str) -> "CheckpointRecord":
        """``promote`` for async code."""
        return await asyncio.to_thread(self.promote, name)

    async def acancel(self) -> JobStatus:
        """``cancel`` for async code."""
        return await asyncio.to_thread(self.cancel)

    async def aretry(self) -> JobStatus:
        """``retry`` for async code."""
        return await asyncio.to_thread(self.retry)

    async def aevents(self, *, follow: bool = False, after: int = 0) -> "AsyncIterator[EventRow]":
        """``events`` for async code."""
        async for update in afollow_jobs(self._aread, [self.id], after=after, until_end=follow):
            for event in update.events:
                yield event

    async def aresult(self, timeout: float | None = None) -> dict[str, JsonValue]:
        """``result`` for async code."""
        return outcome_of(await await_end(self.ajob, self.id, timeout))

    def _store(self) -> "Store":
        return job_store(self._settings)

    def _read(self, job_id: str, after: int) -> Update:
        return read_update(self._store(), job_id, after)

    async def _aread(self, job_id: str, after: int) -> Update:
        return await asyncio.to_thread(self._read, job_id, after)


def outcome_of(job: Job) -> dict[str, JsonValue]:
    """The result of a job that has ended, or the error it ended with."""
    if job.status is JobStatus.SUCCEEDED:
        return job.result or {}
    raise _end_error(job)


_WITHOUT_FAILURE: dict[JobStatus, Callable[[str], CrucibleError]] = {
    JobStatus.CANCELED: Canceled,
    JobStatus.TIMEOUT: JobTimeout,
}


def _end_error(job: Job) -> CrucibleError:
    failure: Failure | None = job.error
    if failure is not None:
        return error_from(failure, default=WorkError)
    return _WITHOUT_FAILURE.get(job.status, WorkError)(f"job {job.id} ended as {job.status}")
