"""Finish, requeue, cancel and retry; a stale owner changes nothing."""

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


def test_a_failure_is_stored_as_data(store: Store, claim: Claim) -> None:
    """A failure round-trips through the store."""
    failure = BackendUnavailable("no answer", backend="fake", details={"tries": 3}).failure()

    store.finish(claim, Outcome.failed(failure))

    assert store.get(claim.job_id).error == failure
    assert store.attempts(claim.job_id)[0].failure == failure


def test_an_end_may_be_repeated(store: Store, claim: Claim) -> None:
    """The same end is accepted again, another end is not."""
    end = (claim, Outcome.succeeded())
    store.finish(*end)

    store.finish(*end)

    with pytest.raises(LeaseLost):
        store.finish(claim, Outcome.failed())
    assert [event.name for event in store.events(claim.job_id)].count("job.succeeded") == 1


def test_only_a_final_outcome_finishes_a_job(store: Store, claim: Claim) -> None:
    """A status that the transition table does not allow is refused."""
    with pytest.raises(IllegalTransition):
        store.finish(claim, Outcome.released("handed over"))


def test_ends_in_a_batch_have_separate_results(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """Stale owners get an error, and the other jobs end."""
    store.submit([make_job() for _ in range(3)])
    first, second, third = store.claim(claim_request(limit=3))
    store.requeue(second, Outcome.released("handed over"))
    ends = [(claim, Outcome.succeeded()) for claim in (first, second, third)]

    rulings = store.database.run(finish_many, [*ends, (first, Outcome.failed())])

    assert [type(ruling) for ruling in rulings] == [type(None), LeaseLost, type(None), LeaseLost]
    ended = [store.get(claim.job_id).status for claim in (first, second, third)]
    assert ended == [JobStatus.SUCCEEDED, JobStatus.QUEUED, JobStatus.SUCCEEDED]


@pytest.mark.parametrize(("counts", "attempt"), [(True, 2), (False, 1)], ids=["retry", "hand-over"])
def test_attempts_count_retries_only(
    store: Store, claim: Claim, claim_request: MakeRequest, counts: bool, attempt: int
) -> None:
    """A retry uses up an attempt, a pause or a hand-over does not; the fencing token rises in both cases."""
    store.requeue(claim, Outcome(OutcomeKind.RETRIED if counts else OutcomeKind.RELEASED, reason="because"))

    (again,) = store.claim(claim_request("w2"))

    assert (again.attempt, again.fence) == (attempt, 2)


def test_a_paused_job_has_a_wait_reason(store: Store, claim: Claim, clock: object) -> None:
    """The reason and the time are visible while the job waits."""
    store.requeue(claim, Outcome.released("out of credit", delay_s=300))

    job = store.get(claim.job_id)

    assert job.run_at == clock.now() + timedelta(seconds=300)
    assert job.wait_reason == "not before 2026-01-01T00:05:00+00:00 (out of credit)"
    assert store.attempts(claim.job_id)[0].outcome == "released"


def test_a_stale_owner_changes_nothing(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """Once another worker owns the job, writes of the former owner are refused."""
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
    """It never runs."""
    (entry,) = store.submit([make_job()])

    assert store.request_cancel(entry.job_id) is JobStatus.CANCELED

    assert store.claim(claim_request()) == []
    assert store.get(entry.job_id).error is not None
    assert store.request_cancel(entry.job_id) is JobStatus.CANCELED


def test_a_running_job_is_requested_to_stop(store: Store, claim: Claim) -> None:
    """Every later heartbeat reports the request; a job requeued after it ends as canceled."""
    assert store.request_cancel(claim.job_id) is JobStatus.RUNNING

    report = store.heartbeat([claim], 10)
    assert report.cancel_requested == {claim.job_id}
    assert store.requeue(claim, Outcome.released("handed over")) is JobStatus.CANCELED
    assert store.get(claim.job_id).status is JobStatus.CANCELED


def test_an_ended_job_can_be_retried(store: Store, claim: Claim, claim_request: MakeRequest) -> None:
    """A retry by request restores all attempts and clears the failure; a succeeded job cannot be retried."""
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


def test_a_retried_job_waits_for_its_dependencies(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """One that has not been retried itself is named; one that runs again is waited for."""
    store.submit([make_job(id="first"), make_job(id="second", constraints={"depends_on": ["first"]})])
    (first,) = store.claim(claim_request())
    store.finish(first, Outcome.failed())
    assert store.get("second").status is JobStatus.FAILED

    with pytest.raises(IllegalTransition, match=r"'second' depends on 'first' \(failed\)"):
        store.retry("second")
    store.retry("first")
    store.retry("second")

    waiting = store.get("second")
    assert (waiting.status, waiting.wait_reason, waiting.error) == (JobStatus.PENDING, "depends on first", None)
    (again,) = store.claim(claim_request(limit=5))
    store.finish(again, Outcome.succeeded())
    assert [claim.job_id for claim in store.claim(claim_request(limit=5))] == ["second"]


@pytest.mark.parametrize(
    "ask", ["get", "events", "attempts", "steps", "checkpoints", "runs", "request_cancel", "retry"]
)
def test_an_unknown_job_is_not_found(store: Store, ask: str) -> None:
    """Every operation on an unknown job raises the same error."""
    with pytest.raises(JobNotFound, match="there is no job 'nobody'"):
        getattr(store, ask)("nobody")


def test_jobs_of_other_tenants_are_not_found(store: Store, make_job: MakeJob) -> None:
    """To a tenant, a job of another tenant does not exist."""
    (entry,) = store.submit([make_job(tenant_id="theirs")])

    for ask in (store.get, store.request_cancel, store.retry):
        with pytest.raises(JobNotFound):
            ask(entry.job_id, "mine")
