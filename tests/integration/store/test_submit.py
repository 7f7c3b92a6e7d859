"""Submit: all jobs of a call or none, one job per key, and ready only when nothing is left to wait for."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.event import listen, remove

from nsai_work.errors import InvalidJob, JobNotFound, KeyReused
from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import ClaimRequest, JobFilter, Outcome, Store

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def test_a_job_round_trips(store: Store, make_job: MakeJob) -> None:
    """The submitted fields are unchanged; the store adds only state."""
    job = make_job(tags=["a", "b"], metadata={"note": "\x00 survives", "lines": "a\n\tb"}, owner="me")
    store.submit([job])

    found = store.get(job.id)

    assert repr(found.metadata) == repr(job.metadata)
    same = found.model_copy(
        update=dict.fromkeys(("created_at", "queued_at", "wait_reason")) | {"status": job.status, "metadata": {}}
    )
    assert same == job.model_copy(update={"metadata": {}})
    assert (found.status, found.attempt, found.fence) == (JobStatus.QUEUED, 0, 0)


def test_a_job_is_submitted_with_its_event(store: Store, make_job: MakeJob) -> None:
    """The first event of a job is its submission."""
    (entry,) = store.submit([make_job()])

    assert [event.name for event in store.events(entry.job_id)] == ["job.submitted"]


def test_the_same_key_gives_the_same_job(store: Store, make_job: MakeJob) -> None:
    """An idempotency key creates one job per tenant and namespace, within a call and across calls."""
    first = make_job(idempotency_key="k")
    twin = make_job(idempotency_key="k")
    other_tenant = make_job(idempotency_key="k", tenant_id="other")
    other_space = make_job(idempotency_key="k", namespace="other")

    created, same, in_tenant, in_namespace = store.submit([first, twin, other_tenant, other_space])
    (again,) = store.submit([make_job(idempotency_key="k")])

    assert [entry.created for entry in (created, same, in_tenant, in_namespace, again)] == [
        True,
        False,
        True,
        True,
        False,
    ]
    assert created.job_id == same.job_id == again.job_id == first.id
    assert len(store.list_jobs()) == 3


def test_the_same_key_with_another_content_is_refused(store: Store, make_job: MakeJob) -> None:
    """On both databases, within a call and across calls; nothing is stored."""
    store.submit([make_job(idempotency_key="k", name="first")])

    with pytest.raises(KeyReused, match=r"name \('first' there, 'second' here\)"):
        store.submit([make_job(), make_job(idempotency_key="k", name="second")])
    with pytest.raises(KeyReused, match="owner"):
        store.submit([make_job(idempotency_key="l", owner="a"), make_job(idempotency_key="l", owner="b")])

    assert [job.name for job in store.list_jobs()] == ["first"]


def test_any_number_of_jobs_is_looked_up_at_once(store: Store, make_job: MakeJob) -> None:
    """With their contents, which are compared."""
    jobs = [make_job(idempotency_key=str(number)) for number in range(20)]
    store.submit(jobs)
    statements: list[str] = []
    engine = store.database.engine()

    def note(*given: Any) -> None:
        statements.append(given[2])

    listen(engine, "before_cursor_execute", note)
    found = store.find_submitted(jobs)
    remove(engine, "before_cursor_execute", note)

    assert [earlier and earlier.job_id for earlier in found] == [job.id for job in jobs]
    assert len([text for text in statements if "nsai_job" in text]) == 1


def test_submitting_a_job_again_changes_nothing(store: Store, make_job: MakeJob) -> None:
    """A submit whose result was lost may be repeated."""
    job = make_job()
    store.submit([job])

    (again,) = store.submit([job])

    assert (again.job_id, again.created) == (job.id, False)
    assert len(store.events(job.id)) == 1


def test_an_id_of_another_job_is_refused(store: Store, make_job: MakeJob) -> None:
    """An id belongs to one job for ever."""
    job = make_job()
    store.submit([job])

    with pytest.raises(InvalidJob, match=r"id: .*another job"):
        store.submit([make_job(), make_job(id=job.id, name="different")])

    assert len(store.list_jobs()) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        pytest.param(
            {"constraints": {"depends_on": ["nobody"]}}, "depends_on: there is no job 'nobody'", id="unknown"
        ),
        pytest.param({"constraints": {"deadline": "2020-01-01T00:00:00Z"}}, "deadline: .*passed", id="late"),
        pytest.param({"constraints": {"excluded_backends": ["fake"]}}, "no backend", id="nowhere"),
        pytest.param({"id": "me", "constraints": {"depends_on": ["me"]}}, "cannot depend on itself", id="itself"),
    ],
)
def test_an_invalid_job_refuses_the_whole_call(
    store: Store, make_job: MakeJob, fields: dict[str, object], message: str
) -> None:
    """A call stores all of its jobs or none."""
    with pytest.raises(InvalidJob, match=message):
        store.submit([make_job(), make_job(**fields)])

    assert store.list_jobs() == []
    assert store.events_all() == []


def test_a_job_of_another_tenant_cannot_be_depended_on(store: Store, make_job: MakeJob) -> None:
    """Dependencies are jobs of the same tenant."""
    theirs = make_job(tenant_id="them")
    store.submit([theirs])

    with pytest.raises(InvalidJob, match="there is no job"):
        store.submit([make_job(constraints={"depends_on": [theirs.id]})])
    with pytest.raises(JobNotFound):
        store.get(theirs.id, tenant_id="default")


def test_a_dependent_is_queued_when_all_have_succeeded(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A job waits, with its reason, until the last of its dependencies has succeeded."""
    first, second = make_job(), make_job()
    last = make_job(constraints={"depends_on": [first.id, second.id]})
    entries = store.submit([first, second, last])

    assert [entry.status for entry in entries] == [JobStatus.QUEUED, JobStatus.QUEUED, JobStatus.PENDING]
    assert store.get(last.id).wait_reason == f"depends on {first.id}, {second.id}"

    claims = store.claim(claim_request(limit=5))
    store.finish(claims[0], Outcome.succeeded())
    assert store.get(last.id).status is JobStatus.PENDING

    store.finish(claims[1], Outcome.succeeded())
    assert [claim.job_id for claim in store.claim(claim_request(limit=5))] == [last.id]


def test_a_failed_dependency_fails_all_its_dependents(store: Store, make_job: MakeJob) -> None:
    """A chain fails as a whole, and each job has the reason."""
    first = make_job()
    second = make_job(constraints={"depends_on": [first.id]})
    third = make_job(constraints={"depends_on": [second.id]})
    store.submit([first, second, third])

    store.request_cancel(first.id)

    failed = [store.get(job.id) for job in (second, third)]
    assert [job.status for job in failed] == [JobStatus.FAILED] * 2
    assert [job.error.code for job in failed if job.error] == ["dependency_failed"] * 2
    assert first.id in (failed[0].error.message if failed[0].error else "")
    (late,) = store.submit([make_job(constraints={"depends_on": [first.id]})])
    assert late.status is JobStatus.FAILED


def test_a_job_waits_for_its_time(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object
) -> None:
    """not_before is wall-clock time; the scheduler queues the job afterwards."""
    job = make_job(constraints={"not_before": clock.now() + timedelta(hours=1)})
    (entry,) = store.submit([job])

    assert entry.status is JobStatus.PENDING
    assert store.release_due().queued == []
    assert "not before" in (store.get(job.id).wait_reason or "")

    clock.pass_time(3600)
    assert store.release_due().queued == [job.id]
    assert len(store.claim(claim_request())) == 1


def test_a_job_waits_for_its_time_and_its_dependencies(
    store: Store, make_job: MakeJob, clock: object, claim_request: MakeRequest
) -> None:
    """The later of the two queues the job."""
    first = make_job()
    later = clock.now() + timedelta(hours=1)
    both = make_job(constraints={"depends_on": [first.id], "not_before": later})
    store.submit([first, both])
    (claim,) = store.claim(claim_request())

    store.finish(claim, Outcome.succeeded())
    assert store.get(both.id).status is JobStatus.PENDING

    clock.pass_time(3600)
    assert store.release_due().queued == [both.id]


def test_a_deadline_ends_a_waiting_job(store: Store, make_job: MakeJob, clock: object) -> None:
    """A job whose deadline passes while it waits times out, and its dependents fail."""
    job = make_job(constraints={"deadline": clock.now() + timedelta(seconds=10)})
    after = make_job(constraints={"depends_on": [job.id]})
    store.submit([job, after])

    clock.pass_time(11)
    released = store.release_due()

    assert released.timed_out == [job.id]
    assert store.get(job.id).status is JobStatus.TIMEOUT
    assert store.get(after.id).status is JobStatus.FAILED


def test_lists_are_newest_first_and_paged(store: Store, make_job: MakeJob) -> None:
    """A page begins after the last job of the previous page; filters restrict it."""
    jobs = [make_job(tags=["odd"] if number % 2 else []) for number in range(5)]
    store.submit(jobs)
    newest_first = [job.id for job in reversed(jobs)]

    page = store.list_jobs(limit=2)
    rest = store.list_jobs(limit=10, after=page[-1].id)

    assert [job.id for job in page + rest] == newest_first
    assert [job.id for job in store.list_jobs(JobFilter(tag="odd"))] == [jobs[3].id, jobs[1].id]
    assert store.list_jobs(JobFilter(status=JobStatus.RUNNING)) == []
    assert store.list_jobs(JobFilter(tenant_id="nobody")) == []


def test_a_model_name_that_cannot_be_stored_is_refused(store: Store) -> None:
    """The name is a column, so it is checked before anything is stored."""
    payload = {"base_model": "a\x00b", "data": {"path": "d"}, "max_steps": 1}

    with pytest.raises(InvalidJob, match=r"payload\.base_model: .*control"):
        store.submit([Job.parse({"kind": "training_step", "payload": payload})])
    assert store.list_jobs() == []


def test_text_from_outside_is_stored_lossily(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """A reason with NUL, as a service might send, does not break the pause that it explains."""
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())

    store.requeue(claim, Outcome.retried("out of \x00 credit \ud800", delay_s=5))

    assert "out of \ufffd credit ?" in (store.get(claim.job_id).wait_reason or "")
