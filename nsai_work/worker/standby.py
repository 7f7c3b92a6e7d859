"""The standby: prepares a worker for the jobs that others run, so that taking one over needs no imports and no
reading.

It imports the module of the job's kind, opens the backend, loads the tokenizer, copies the files into the cache and
renders the data, which is shared by all runs of a process. What it holds is bounded by MAX_JOBS and MAX_DATA_BYTES.
"""

import asyncio
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from crucible.backend import Backend, TrainingBackend
from crucible.errors import CrucibleError
from nsai_work.concurrency.control import Control
from nsai_work.concurrency.interruptible import InterruptibleAwaiter
from nsai_work.job import Job
from nsai_work.payloads import Composite, Payload, ReinforcementStep, TrainingStep
from nsai_work.payloads.files import input_files
from nsai_work.payloads.reads import job_reads
from nsai_work.store.records import Selection
from nsai_work.telemetry.logs import get_logger
from nsai_work.worker.attempts.backends import BackendPool
from nsai_work.worker.attempts.handlers import import_handler
from nsai_work.worker.worker_store import WorkerStore

log = get_logger(__name__)

MAX_JOBS: Final = 8
"""The number of jobs that a worker is prepared for. Those of one model and backend share most of it."""
MAX_DATA_BYTES: Final = 32 * 1024 * 1024
"""The size of the files whose rendered data is kept in memory: several times as much there."""


class Standby:
    """Looks for running jobs of others every ``interval_s``, and prepares for those that this worker could run."""

    def __init__(
        self, store: WorkerStore, backends: BackendPool, selection: Selection, *, interval_s: float
    ) -> None:
        self._store = store
        self._backends = backends
        self._selection = selection
        self._interval_s = interval_s
        self._prepared: dict[str, object] = {}
        self._sizes: dict[str, int] = {}

    @property
    def prepared(self) -> frozenset[str]:
        """The ids of the jobs that this worker is prepared for, or has tried to be."""
        return frozenset(self._prepared)

    async def run(self) -> None:
        """Prepare forever. An error of the store is left to the tasks that need it."""
        while True:
            try:
                await self.prepare()
            except CrucibleError as error:
                log.debug("standby.failed", error=error.code)
            await asyncio.sleep(self._interval_s)

    async def prepare(self) -> None:
        """Prepare for the jobs that others run now, and forget the others. Raises StoreUnavailable."""
        jobs = {job.id: job for job in await self._store.running_elsewhere(MAX_JOBS) if self._is_claimable(job)}
        for job_id in self._prepared.keys() - jobs.keys():
            del self._prepared[job_id]
            self._sizes.pop(job_id, None)
        for job in [job for job in jobs.values() if job.id not in self._prepared]:
            # not tried again: whoever takes it over sees the error
            self._prepared[job.id] = None
            try:
                self._prepared[job.id] = await self._prepare(job)
            except (CrucibleError, OSError) as error:
                log.debug("standby.not_prepared", job_id=job.id, error=type(error).__name__)

    def _is_claimable(self, job: Job) -> bool:
        priorities = self._selection.priorities
        return job.backend in self._backends.available() and (priorities is None or job.priority in priorities)

    async def _prepare(self, job: Job) -> object:
        """Load what an attempt at a job needs. Returns what has to be kept alive."""
        payload = job.parsed_payload
        if isinstance(payload, Composite):
            return None
        await import_handler(payload)
        backend = await self._backends.get(job.backend)
        if job_reads(payload):
            # rows of other jobs are read, and pinned, by an owner
            return None
        with ExitStack() as held:
            local = await asyncio.to_thread(self._store.files.localized, job.id, payload, held)
            return await self._data(job.id, local, backend)

    async def _data(self, job_id: str, payload: Payload, backend: Backend) -> object:
        if not isinstance(payload, TrainingStep) or not isinstance(backend, TrainingBackend):
            return None
        await backend.tokenizer(payload.base_model)
        size = await asyncio.to_thread(_size, payload)
        if isinstance(payload, ReinforcementStep) or sum(self._sizes.values()) + size > MAX_DATA_BYTES:
            return None
        from nsai_work.training.sources.data_source import open_batches

        wait = InterruptibleAwaiter(Control())
        try:
            batches = await open_batches(payload, backend, wait)
        finally:
            await wait.close()
        self._sizes[job_id] = size
        return batches


def _size(payload: Payload) -> int:
    return sum(Path(file.source.path).stat().st_size for file in input_files(payload))
