"""Jobs that a worker cannot run: they go back uncounted, are left alone there, and wait with a reason if no worker
can run them."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from crucible.errors import CredentialMissing
from nsai_work.errors import FileUnusable
from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Claim, ClaimRequest, Outcome, Selection
from nsai_work.store.maintenance import workers
from nsai_work.store.worker_id import WorkerId
from tests.working_store import WorkingStore

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]

NO_FILE = FileUnusable("payload.data.path: /d: does not exist").failure()
NO_KEY = CredentialMissing("no API key").failure()


def excluding(request: ClaimRequest, claims: Sequence[Claim]) -> ClaimRequest:
    """A request that leaves the jobs of these claims to other workers."""
    seqs = tuple(claim.seq for claim in claims)
    return replace(request, selection=replace(request.selection, excluded=seqs))


def register(store: WorkingStore, host: str, *, selection: Selection | None = None, **lists: dict[str, str]) -> str:
    """Register a worker, and return its id."""
    worker = WorkerId(host, "boot", "namespace", 1, 1, "nonce")
    backends, declined = lists.get("backends", {"fake": "fake"}), lists.get("declined", {})
    store.database.run(
        workers.register_worker, worker, version="1", backends=backends, declined=declined, selection=selection
    )
    return str(worker)


def test_a_declined_job_is_left_to_other_workers(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The worker claims the jobs behind it, another worker claims it, and no attempt is used up."""
    store.submit([make_job(id="odd"), make_job(id="next")])
    (odd,) = store.claim(claim_request())
    assert store.requeue(odd, Outcome.declined(NO_FILE)) is JobStatus.QUEUED

    same = excluding(claim_request(limit=5), [odd])
    assert [claim.job_id for claim in store.claim(same)] == ["next"]
    assert store.claim(same) == []
    (again,) = store.claim(claim_request("w2", limit=5))

    assert (again.job_id, again.attempt, again.fence) == ("odd", 1, 2)
    assert store.attempts("odd")[0].outcome == "declined"
    assert store.attempts("odd")[0].failure == NO_FILE


def test_a_job_is_excluded_among_several_lanes(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Whatever its priority, tenant and limits."""
    store.submit([make_job(id="a", tenant_id="a"), make_job(id="b", priority="realtime"), make_job(id="c")])
    store.set_tenant_quota("a", 1)
    declined = store.claim(claim_request(limit=5))
    for claim in declined:
        store.requeue(claim, Outcome.declined(NO_FILE))

    assert store.claim(excluding(claim_request(limit=5), declined)) == []
    assert [claim.job_id for claim in store.claim(excluding(claim_request(limit=5), declined[:1]))] == ["a", "c"]


def test_a_job_that_all_workers_declined_says_why(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """Each host with its reason: a file is declined job by job, a backend once for all of its jobs."""
    first, second = register(store, "host-a"), register(store, "host-b")
    store.submit([make_job(id="job"), make_job(id="other")])
    (claim,) = store.claim(claim_request(first))
    store.requeue(claim, Outcome.declined(NO_FILE))
    assert store.get("job").wait_reason == f"declined: {NO_FILE.message}"

    store.database.run(workers.worker_seen, second, declined={"fake": "no API key"})

    reason = f"no worker can run it: host-a: {NO_FILE.message}; host-b: no API key"
    assert store.get("job").wait_reason == reason
    assert {job.id: job.wait_reason for job in store.list_jobs()} == {
        "job": reason,
        "other": "other jobs are before it",
    }

    store.database.run(workers.worker_seen, second, declined={})
    assert store.get("job").wait_reason == f"declined: {NO_FILE.message}"


def test_a_later_attempt_of_the_worker_counts(
    store: WorkingStore, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A worker that could run the job after all has not declined it."""
    worker = register(store, "host-a")
    store.submit([make_job(id="job")])
    (claim,) = store.claim(claim_request(worker))
    store.requeue(claim, Outcome.declined(NO_KEY))
    assert store.get("job").wait_reason == "no worker can run it: host-a: no API key"

    (claim,) = store.claim(claim_request(worker))
    store.requeue(claim, Outcome.released("the worker was shut down"))

    assert store.get("job").wait_reason == "the worker was shut down"


def test_a_backend_that_no_worker_has_is_a_reason(store: WorkingStore, make_job: MakeJob) -> None:
    """Nobody claims such a job, so nobody declines it. All of its backends must be lacking."""
    register(store, "host-a", backends={"tinkex": "tinkex"}, declined={"fake": "not installed: peft"})
    constraints = {"preferred_backends": ["tinkex"]}
    store.submit([make_job(id="job"), make_job(id="either", constraints=constraints)])
    assert store.get("job").wait_reason == "no worker can run it: host-a: not installed: peft"

    register(store, "host-b", backends={})

    assert store.get("job").wait_reason == (
        "no worker can run it: host-a: not installed: peft; host-b: it has no backend 'fake'"
    )
    assert store.get("either").wait_reason == "waits for a free worker"


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (Selection(priorities=(Priority.REALTIME,)), "no worker takes priority batch"),
        (Selection(job_ids=("another",)), "no worker is alive"),
    ],
    ids=["priority", "job ids"],
)
def test_a_worker_that_is_there_for_other_jobs_does_not_count(
    store: WorkingStore, make_job: MakeJob, selection: Selection, reason: str
) -> None:
    """It neither gives a reason nor hides that of the others."""
    register(store, "host-b", selection=selection)
    store.submit([make_job(id="job")])
    assert store.get("job").wait_reason == reason

    worker = register(store, "host-a", backends={})
    assert store.get("job").wait_reason == "no worker can run it: host-a: it has no backend 'fake'"

    store.database.run(workers.worker_seen, worker, stopped=True)
    assert store.get("job").wait_reason == reason
