"""Owners let go of jobs, people steer them, and no stale owner changes anything."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from crucible.errors import BackendUnavailable
from nsai_work.errors import IllegalTransition, JobNotFound, LeaseLost
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Claim, ClaimRequest, Outcome, Store
from nsai_work.store.lifecycle.finish import finish_many
from nsai_work.store.records import OutcomeKind

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


@pytest.fixture
def claim(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> Claim:
    """A job that w1 runs."""
    store.submit([make_job()])
    return store.claim(claim_request())[0]


def test_a_result_is_recorded(store: Store, claim: Claim) -> None:
    """The end of a job, its attempt and its event are one transaction."""
    store.finish(claim, Outcome.succeeded({"answer": 42}))

    job = store.get(claim.job_id)
    assert (job.status, job.result, job.error) == (JobStatus.SUCCEEDED, {"answer": 42}, None)
    assert job.completed_at is not None
    assert store.attempts(claim.job_id)[0].outcome == "succeeded"
    assert store.events(claim.job_id)[-1].name == "job.succeeded"


def test_a_failure_is_kept_as_data(store: Store, claim: Claim) -> None:
    """What went wrong comes back as it was recorded."""
    failure = BackendUnavailable("no answer", backend="fake", details={"tries": 3}).failure()

    store.finish(claim, Outcome.failed(failure))

    assert store.get(claim.job_id).error == failure
    assert store.attempts(claim.job_id)[0].failure == failure


def test_an_end_whose_answer_was_lost_may_be_repeated(store: Store, claim: Claim) -> None:
    """The same end again is fine, another end is not."""
    end = (claim, Outcome.succeeded())
    store.finish(*end)

    store.finish(*end)

    with pytest.raises(LeaseLost):
        store.finish(claim, Outcome.failed())
    assert [event.name for event in store.events(claim.job_id)].count("job.succeeded") == 1


def test_only_an_end_ends_a_job(store: Store, claim: Claim) -> None:
    """A status the life cycle does not allow is refused."""
    with pytest.raises(IllegalTransition):
        store.finish(claim, Outcome.released("handed over"))


def test_many_end_at_once_and_each_gets_its_own_answer(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """In a batch the stale ones are told so, and the others end."""
    store.submit([make_job() for _ in range(3)])
    first, second, third = store.claim(claim_request(limit=3))
    store.requeue(second, Outcome.released("handed over"))
    ends = [(one, Outcome.succeeded()) for one in (first, second, third)]

    rulings = store.database.run(finish_many, [*ends, (first, Outcome.failed())])

    assert [type(ruling) for ruling in rulings] == [type(None), LeaseLost, type(None), LeaseLost]
    ended = [store.get(one.job_id).status for one in (first, second, third)]
    assert ended == [JobStatus.SUCCEEDED, JobStatus.QUEUED, JobStatus.SUCCEEDED]


@pytest.mark.parametrize(("counts", "attempt"), [(True, 2), (False, 1)], ids=["retry", "hand-over"])
def test_what_counts_as_an_attempt(
    store: Store, claim: Claim, claim_request: MakeRequest, counts: bool, attempt: int
) -> None:
    """A retry uses an attempt up, a pause or a hand-over does not; the fence rises either way."""
    store.requeue(claim, Outcome(OutcomeKind.RETRIED if counts else OutcomeKind.RELEASED, reason="because"))

    (again,) = store.claim(claim_request("w2"))

    assert (again.attempt, again.fence) == (attempt, 2)


def test_a_paused_job_says_why(store: Store, claim: Claim, clock: object) -> None:
    """The reason and the time are there to be seen while the job waits."""
    store.requeue(claim, Outcome.released("out of credit", delay_s=300))

    job = store.get(claim.job_id)

    assert job.run_at == clock.now() + timedelta(seconds=300)
    assert job.wait_reason == "not before 2026-01-01T00:05:00+00:00 (out of credit)"
    assert store.attempts(claim.job_id)[0].outcome == "released"


def test_a_stale_owner_changes_nothing(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """Once another owner has the job, the old one's writes are refused."""
    store.requeue(claim, Outcome.released("handed over"))
    (newer,) = store.claim(claim_request("w2"))
    before = (store.get(claim.job_id), store.events(claim.job_id))

    with pytest.raises(LeaseLost, match="fencing token 1 no longer owns it"):
        store.finish(claim, Outcome.succeeded())
    with pytest.raises(LeaseLost, match="fencing token 1 no longer owns it"):
        store.requeue(claim, Outcome.retried("mine", delay_s=1))

    assert (store.get(claim.job_id), store.events(claim.job_id)) == before
    store.finish(newer, Outcome.succeeded())


def test_a_waiting_job_is_canceled_at_once(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """Nothing of it ever runs."""
    (entry,) = store.submit([make_job()])

    assert store.request_cancel(entry.job_id) is JobStatus.CANCELED

    assert store.claim(claim_request()) == []
    assert store.get(entry.job_id).error is not None
    assert store.request_cancel(entry.job_id) is JobStatus.CANCELED


def test_a_running_job_is_told_to_stop(store: Store, claim: Claim) -> None:
    """The next heartbeat says so, once asked for it stays; a job given back then ends as canceled."""
    assert store.request_cancel(claim.job_id) is JobStatus.RUNNING

    report = store.heartbeat([claim], 10)
    assert report.cancel_requested == {claim.job_id}
    assert store.requeue(claim, Outcome.released("handed over")) is JobStatus.CANCELED
    assert store.get(claim.job_id).status is JobStatus.CANCELED


def test_an_ended_job_can_be_opened_again(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """A retry by hand gives all attempts back and forgets the failure; a success stays one."""
    store.finish(claim, Outcome.failed())

    store.retry(claim.job_id)

    with pytest.raises(IllegalTransition, match="is queued; only an ended job"):
        store.retry(claim.job_id)
    (again,) = store.claim(claim_request())
    assert (again.attempt, again.fence, again.job.error, again.job.completed_at) == (1, 2, None, None)
    with pytest.raises(IllegalTransition):
        store.retry(claim.job_id)
    store.finish(again, Outcome.succeeded())
    with pytest.raises(IllegalTransition):
        store.retry(claim.job_id)


@pytest.mark.parametrize(
    "ask", ["get", "events", "attempts", "steps", "checkpoints", "runs", "request_cancel", "retry"]
)
def test_an_unknown_job_is_not_found(store: Store, ask: str) -> None:
    """Every question about a job that does not exist gets the same clear answer."""
    with pytest.raises(JobNotFound, match="there is no job 'nobody'"):
        getattr(store, ask)("nobody")


def test_other_tenants_jobs_cannot_be_steered(store: Store, make_job: MakeJob) -> None:
    """For a tenant, another's job does not exist."""
    (entry,) = store.submit([make_job(tenant_id="theirs")])

    for ask in (store.get, store.request_cancel, store.retry):
        with pytest.raises(JobNotFound):
            ask(entry.job_id, "mine")
