"""A queue of waiting jobs, and the sweeps of the leader that records why they wait."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import select

from nsai_work.job import Job, Priority
from nsai_work.store import ClaimRequest, Selection
from nsai_work.store.maintenance.workers import register_worker, worker_seen
from nsai_work.store.schema import jobs
from nsai_work.store.worker_id import WorkerId
from tests.integration.store.conftest import ManualClock
from tests.working_store import WorkingStore

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

BACKENDS = {"fake": "account-a"}


@dataclass
class Queue:
    """A store with what a scenario needs, and the sweeps of its leader."""

    store: WorkingStore
    clock: ManualClock
    make_job: MakeJob
    claim_request: MakeRequest
    alive: list[str] = field(default_factory=list)

    def worker(
        self, backends: dict[str, str] | None = None, priorities: tuple[Priority, ...] | None = None
    ) -> None:
        """Register a worker that is seen at each sweep."""
        worker = WorkerId(f"host-{len(self.alive)}", "boot", "namespace", 1, 1, "nonce")
        self.alive.append(str(worker))
        self.store.database.run(
            register_worker,
            worker,
            version="1",
            backends=BACKENDS if backends is None else backends,
            selection=Selection(priorities=priorities),
            seen_every_s=1.0,
        )

    def submit(self, **fields: Any) -> Job:
        """Submit a job."""
        job = self.make_job(**fields)
        self.store.submit([job])
        return job

    def run(self, **fields: Any) -> Job:
        """Submit a job and claim it."""
        job = self.submit(**fields)
        claims = self.store.claim(self.claim_request(limit=100, backends=BACKENDS))
        assert job.id in {claim.job_id for claim in claims}
        return job

    def sweep_for(self, seconds: float) -> None:
        """What the leader does meanwhile."""
        for _ in range(int(seconds)):
            self.clock.pass_time(1)
            for worker in self.alive:
                self.store.database.run(worker_seen, worker)
            self.store.release_due()


def recorded(queue: Queue, job: Job) -> str | None:
    """The column."""
    statement = select(jobs.c.wait_reason).where(jobs.c.id == job.id)
    reason: str | None = queue.store.database.read(lambda tx: tx.connection.execute(statement).scalar_one())
    return reason
