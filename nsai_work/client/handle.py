"""JobHandle: reads and controls a job by its id, from any process."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING

from pydantic import JsonValue

from crucible.errors import Canceled, CrucibleError, Failure, error_from
from nsai_work.client.connections import job_store, send_wake_ups
from nsai_work.client.follow import JobUpdate, afollow_jobs, await_end, follow_jobs, read_update, wait_for_end
from nsai_work.errors import JobTimeout, WorkError
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.settings import Settings

if TYPE_CHECKING:
    from nsai_work.journal import CheckpointRecord, EvaluationRecord, StepRecord
    from nsai_work.journal.rollouts import RolloutRecord
    from nsai_work.store import EventRow, Store


class JobHandle:
    """Reads and controls a job by its id. Has no state of its own: each call queries the store.

    Every method has an async variant, with the prefix ``a``, that does not block the event loop. All methods raise
    JobNotFound if the job does not exist and StoreUnavailable if the database does not answer.
    """

    def __init__(self, job_id: str, settings: Settings | None = None) -> None:
        self.id = job_id
        self._settings = settings or Settings()

    def __repr__(self) -> str:
        return f"JobHandle({self.id!r})"

    def job(self) -> Job:
        """Return the job in its current state."""
        return self._store().get(self.id)

    def status(self) -> JobStatus:
        """Return the current status of the job."""
        return self.job().status

    def steps(self) -> "list[StepRecord]":
        """Return the effective optimizer steps in order. Steps that a restore superseded are left out."""
        return list(self._store().steps(self.id))

    def evaluations(self) -> "list[EvaluationRecord]":
        """Return the evaluations of a training job in order. Those that a restore superseded are left out."""
        return list(self._store().evaluations(self.id))

    def rollouts(self, step: int | None = None, *, evaluated: bool = False) -> "list[RolloutRecord]":
        """Return the rollouts of a job of reinforcement learning in order, or those of a step; with ``evaluated``
        those of its evaluations."""
        return list(self._store().rollouts(self.id, step, evaluated=evaluated))

    def checkpoints(self) -> "list[CheckpointRecord]":
        """Return all checkpoints of the job, including deleted ones."""
        return list(self._store().checkpoints(self.id))

    def promote(self, name: str) -> "CheckpointRecord":
        """Keep a checkpoint permanently, regardless of the checkpoint policy. Its expiry at the service is removed.

        Raises:
            NotFound: the job has no checkpoint of this name, or the service no longer has it.
            InvalidRequest: the checkpoint is not committed, or was deleted.
            BackendUnavailable: the service did not answer; the message says what was changed.
        """
        from nsai_work.client.checkpoints.promote import promote

        return promote(self._store(), self.id, name, timeout_s=self._settings.submit_timeout_s)

    def cancel(self) -> JobStatus:
        """Cancel the job: immediately if it waits, within one step if it runs. Returns the status afterwards."""
        self._store().request_cancel(self.id)
        return self.status()

    def retry(self) -> JobStatus:
        """Requeue a job that failed, was canceled or timed out, and wake a worker. Returns the new status: pending
        while a job that it depends on runs again.

        The job has all its attempts again and keeps its records: a training job resumes from its newest checkpoint.

        Raises:
            IllegalTransition: the job has not ended, or it succeeded; or one that it depends on did not.
        """
        from nsai_work.store import WakeUp

        self._store().retry(self.id)
        job = self.job()
        send_wake_ups(self._settings, [WakeUp(job_id=job.id, fence=job.fence, priority=job.priority)])
        return job.status

    def events(self, *, follow: bool = False, after: int = 0) -> "Iterator[EventRow]":
        """Yield the stored events after number ``after``; with ``follow``, continue until the job ends."""
        for update in follow_jobs(self._read, [self.id], after=after, until_end=follow):
            yield from update.events

    def result(self, timeout: float | None = None) -> dict[str, JsonValue]:
        """Wait until the job ends, and return its result.

        Raises:
            CrucibleError: the job failed; the error has the class of the failure.
            Canceled, JobTimeout: the job was canceled, or its own time limit passed.
            TimeoutError: the job has not ended after ``timeout`` seconds.
        """
        return result_of(wait_for_end(self.job, self.id, timeout))

    def results(self) -> "Iterator[dict[str, JsonValue]]":
        """Yield the rows that the job has made so far: the answers of an inference job, in the order of its
        prompts, or the ``rows`` of the result of a command. Raises InvalidRequest: jobs of its kind make none."""
        from nsai_work.client.results import read_results

        return read_results(self._store(), self.job())

    async def ajob(self) -> Job:
        """Async variant of ``job``."""
        return await asyncio.to_thread(self.job)

    async def astatus(self) -> JobStatus:
        """Async variant of ``status``."""
        return await asyncio.to_thread(self.status)

    async def asteps(self) -> "list[StepRecord]":
        """Async variant of ``steps``."""
        return await asyncio.to_thread(self.steps)

    async def aevaluations(self) -> "list[EvaluationRecord]":
        """Async variant of ``evaluations``."""
        return await asyncio.to_thread(self.evaluations)

    async def arollouts(self, step: int | None = None, *, evaluated: bool = False) -> "list[RolloutRecord]":
        """Async variant of ``rollouts``."""
        return await asyncio.to_thread(self.rollouts, step, evaluated=evaluated)

    async def acheckpoints(self) -> "list[CheckpointRecord]":
        """Async variant of ``checkpoints``."""
        return await asyncio.to_thread(self.checkpoints)

    async def apromote(self, name: str) -> "CheckpointRecord":
        """Async variant of ``promote``."""
        return await asyncio.to_thread(self.promote, name)

    async def acancel(self) -> JobStatus:
        """Async variant of ``cancel``."""
        return await asyncio.to_thread(self.cancel)

    async def aretry(self) -> JobStatus:
        """Async variant of ``retry``."""
        return await asyncio.to_thread(self.retry)

    async def aevents(self, *, follow: bool = False, after: int = 0) -> "AsyncIterator[EventRow]":
        """Async variant of ``events``."""
        async for update in afollow_jobs(self._aread, [self.id], after=after, until_end=follow):
            for event in update.events:
                yield event

    async def aresult(self, timeout: float | None = None) -> dict[str, JsonValue]:
        """Async variant of ``result``."""
        return result_of(await await_end(self.ajob, self.id, timeout))

    async def aresults(self) -> "list[dict[str, JsonValue]]":
        """Async variant of ``results``."""
        return await asyncio.to_thread(lambda: list(self.results()))

    def _store(self) -> "Store":
        return job_store(self._settings)

    def _read(self, job_id: str, after: int) -> JobUpdate:
        return read_update(self._store(), job_id, after)

    async def _aread(self, job_id: str, after: int) -> JobUpdate:
        return await asyncio.to_thread(self._read, job_id, after)


def result_of(job: Job) -> dict[str, JsonValue]:
    """Return the result of a job that has ended, or raise its error."""
    if job.status is JobStatus.SUCCEEDED:
        return job.result or {}
    raise _end_error(job)


_DEFAULT_ERRORS: dict[JobStatus, Callable[[str], CrucibleError]] = {
    JobStatus.CANCELED: Canceled,
    JobStatus.TIMEOUT: JobTimeout,
}


def _end_error(job: Job) -> CrucibleError:
    failure: Failure | None = job.error
    if failure is not None:
        return error_from(failure, default=WorkError)
    return _DEFAULT_ERRORS.get(job.status, WorkError)(f"job {job.id} ended with status {job.status}")
