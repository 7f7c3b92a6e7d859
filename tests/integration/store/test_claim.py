"""Claims: the right job, to one owner, under the shared limits."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.payloads import JobKind
from nsai_work.store import ClaimRequest, Outcome, Store

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


def test_each_priority_has_its_turn_and_the_oldest_job_is_first(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """The more urgent priorities come first in the cycle; within a priority, first come, first served."""
    order = [Priority.OFFLINE, Priority.BATCH, Priority.BATCH, Priority.REALTIME, Priority.INTERACTIVE]
    jobs = [make_job(priority=priority) for priority in order]
    store.submit(jobs)

    got = [store.claim(claim_request())[0].job_id for _ in jobs]

    assert got == [jobs[index].id for index in (3, 4, 1, 0, 2)]
    assert store.claim(claim_request()) == []


def test_a_claim_increments_fence_and_attempt(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """The claim, the job, the attempt and the event agree."""
    store.submit([make_job()])

    (claim,) = store.claim(claim_request("w9"))

    job = store.get(claim.job_id)
    assert (claim.fence, claim.attempt, claim.backend) == (1, 1, "fake")
    assert job == claim.job
    assert (job.status, job.fence, job.attempt, job.worker_id) == (JobStatus.RUNNING, 1, 1, "w9")
    (attempt,) = store.attempts(job.id)
    assert (attempt.fence, attempt.worker_id, attempt.outcome) == (1, "w9", None)
    assert store.events(job.id)[-1].name == "job.running"


def test_a_large_tenant_delays_another_by_one_job(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """A single job of a tenant is among the next two, although another tenant submitted a thousand before it."""
    store.submit([make_job(tenant_id="large") for _ in range(1000)])
    for _ in range(3):
        store.claim(claim_request())
    (small,) = store.submit([make_job(tenant_id="small")])

    got = [store.claim(claim_request())[0].job_id for _ in range(2)]

    assert small.job_id in got


def test_a_batch_is_shared_among_tenants(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """One claim of many jobs also serves all tenants, and returns as many jobs as requested."""
    for tenant, count in (("a", 50), ("b", 3), ("c", 50)):
        store.submit([make_job(tenant_id=tenant) for _ in range(count)])

    tenants = [claim.job.tenant_id for claim in store.claim(claim_request(limit=20))]

    counts = {tenant: tenants.count(tenant) for tenant in "abc"}
    assert counts["b"] == 3
    assert counts["a"] + counts["c"] == 17
    assert abs(counts["a"] - counts["c"]) <= 6


def test_tenants_take_turns(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """With claims of one job, three tenants are served in rotation."""
    for tenant in "abc":
        store.submit([make_job(tenant_id=tenant) for _ in range(4)])

    got = [store.claim(claim_request())[0].job.tenant_id for _ in range(12)]

    assert [sorted(got[start : start + 3]) for start in range(0, 12, 3)] == [["a", "b", "c"]] * 4


def test_a_quota_holds_and_is_the_wait_reason(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """A job of a tenant at its quota waits, with the reason; a finished job frees capacity."""
    store.set_tenant_quota("t", 2)
    store.submit([make_job(tenant_id="t") for _ in range(4)])
    (free,) = store.submit([make_job(tenant_id="free")])

    claims = store.claim(claim_request(limit=10))

    assert sorted(claim.job.tenant_id for claim in claims) == ["free", "t", "t"]
    assert store.claim(claim_request(limit=10)) == []
    waiting = store.list_jobs()[1]
    assert waiting.wait_reason == "quota of tenant t is used up (2 of 2 running)"

    store.finish(next(claim for claim in claims if claim.job.tenant_id == "t"), Outcome.succeeded())
    assert len(store.claim(claim_request(limit=10))) == 1
    assert free.created


def test_a_concurrency_group_holds(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """At most max_concurrent_in_group jobs of a group run; other jobs overtake the group's."""
    group = {"concurrency_group": "g", "max_concurrent_in_group": 1}
    grouped = [make_job(constraints=group) for _ in range(3)]
    elsewhere = make_job(constraints=group, tenant_id="other")
    single = make_job()
    store.submit([*grouped, elsewhere, single])

    claims = store.claim(claim_request(limit=10))

    assert {claim.job_id for claim in claims} == {grouped[0].id, elsewhere.id, single.id}
    assert store.get(grouped[1].id).wait_reason == "concurrency group is full (1 of 1 running)"
    store.finish(next(c for c in claims if c.job_id == grouped[0].id), Outcome.succeeded())
    assert [claim.job_id for claim in store.claim(claim_request(limit=10))] == [grouped[1].id]


def test_a_model_limit_is_shared_by_credential(store: Store, claim_request: MakeRequest) -> None:
    """Runs beyond the limit of a service wait in the queue, whichever worker claims."""

    def train(model: str) -> Job:
        payload = {"base_model": model, "data": {"path": "d"}, "max_steps": 1}
        return Job.parse({"kind": "training_step", "backend": "tinkex", "payload": payload})

    store.set_model_limit("team-key", 1, model="llama")
    store.submit([train("llama"), train("llama"), train("qwen")])
    with_key = {"backends": {"tinkex": "team-key"}}

    first = store.claim(claim_request("w1", limit=10, **with_key))
    assert sorted(claim.job.payload["base_model"] for claim in first) == ["llama", "qwen"]
    assert store.claim(claim_request("w2", limit=10, **with_key)) == []
    # another credential has a limit of its own
    assert len(store.claim(claim_request("w3", limit=10, backends={"tinkex": "other-key"}))) == 1


def test_a_limit_over_all_models(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """A limit on ``*`` counts every job of the credential, and can be removed."""
    store.set_model_limit("fake", 2)
    store.submit([make_job() for _ in range(4)])

    assert len(store.claim(claim_request(limit=10))) == 2
    assert store.list_jobs()[0].wait_reason == "limit of fake for all models is reached (2 of 2 running)"

    store.set_model_limit("fake", None)
    assert len(store.claim(claim_request(limit=10))) == 2


@pytest.mark.parametrize(
    ("constraints", "available", "chosen"),
    [
        pytest.param({}, ["fake", "tinkex"], "fake", id="the-job's-own"),
        pytest.param({}, ["tinkex"], None, id="not-there"),
        pytest.param({"preferred_backends": ["x", "y"]}, ["y", "fake"], "y", id="next-preferred"),
        pytest.param({"preferred_backends": ["x"]}, ["fake"], "fake", id="falls-back-to-its-own"),
        pytest.param({"required_backends": ["x", "fake"]}, ["x"], "x", id="required"),
        pytest.param({"required_backends": ["x"]}, ["fake"], None, id="required-elsewhere"),
        pytest.param({"preferred_backends": ["x"], "excluded_backends": ["fake"]}, ["fake"], None, id="excluded"),
    ],
)
def test_the_backend_is_chosen_at_the_claim(
    store: Store,
    make_job: MakeJob,
    claim_request: MakeRequest,
    constraints: dict[str, object],
    available: list[str],
    chosen: str | None,
) -> None:
    """Among the backends that the job allows and the worker supports, in the job's order."""
    store.submit([make_job(constraints=constraints)])

    claims = store.claim(claim_request(backends={name: name for name in available}))

    assert [claim.backend for claim in claims] == ([] if chosen is None else [chosen])


def test_the_next_backend_is_chosen_if_the_first_is_full(
    store: Store, make_job: MakeJob, claim_request: MakeRequest
) -> None:
    """When the limit of the preferred backend is reached, the next preferred one is chosen."""
    store.set_model_limit("x", 1)
    store.submit([make_job(constraints={"preferred_backends": ["x", "y"]}) for _ in range(3)])

    claims = store.claim(claim_request(limit=3, backends={"x": "x", "y": "y"}))

    assert sorted(claim.backend for claim in claims) == ["x", "y", "y"]


def test_a_selection_restricts_a_claim(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """By kinds, priorities and job ids."""
    urgent, other = make_job(priority="realtime"), make_job(kind="backend_command")
    store.submit([urgent, other])

    assert store.claim(claim_request(kinds=[JobKind.INFERENCE])) == []
    assert store.claim(claim_request(job_ids=["nobody"])) == []
    assert store.claim(claim_request(job_ids=[])) == []
    assert [c.job_id for c in store.claim(claim_request(priorities=[Priority.BATCH]))] == [other.id]
    assert [c.job_id for c in store.claim(claim_request(job_ids=[urgent.id]))] == [urgent.id]


def test_a_delayed_job_is_claimed_without_the_scheduler(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object
) -> None:
    """A retry waits for its delay, and is then claimed without any maintenance."""
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    store.requeue(claim, Outcome.retried("later", delay_s=30))

    assert store.claim(claim_request()) == []
    clock.pass_time(29)
    assert store.claim(claim_request()) == []
    clock.pass_time(1)
    assert len(store.claim(claim_request())) == 1


@pytest.mark.parametrize("step_s", [-3600, 3600], ids=["back", "forward"])
def test_a_stepping_clock_delays_no_job(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object, step_s: int
) -> None:
    """A wall clock that steps by an hour delays neither queued jobs nor delayed retries."""
    store.submit([make_job(), make_job()])
    (claim,) = store.claim(claim_request())
    store.requeue(claim, Outcome.retried("later", delay_s=30))

    clock.step_wall(step_s)
    assert len(store.claim(claim_request(limit=5))) >= 1
    clock.pass_time(30)
    store.claim(claim_request(limit=5))

    assert {job.status for job in store.list_jobs()} == {JobStatus.RUNNING}


def test_a_clock_set_back_does_not_hide_new_jobs(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object
) -> None:
    """Jobs submitted before and after the step are all claimed, the older first."""
    (before,) = store.submit([make_job()])
    clock.step_wall(-3600)
    (after,) = store.submit([make_job()])

    assert [claim.job_id for claim in store.claim(claim_request(limit=2))] == [before.job_id, after.job_id]


def test_unclaimed_jobs_get_another_wake_up(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object
) -> None:
    """A job that has been ready for some seconds gets another wake-up."""
    (old, taken) = store.submit([make_job(), make_job(priority="realtime")])
    store.claim(claim_request())
    clock.pass_time(10)
    store.submit([make_job()])

    wake_ups = store.overdue_wake_ups(older_than_s=5)

    assert [(wake_up.job_id, wake_up.priority) for wake_up in wake_ups] == [(old.job_id, Priority.BATCH)]
    clock.wall -= timedelta(hours=1)
    assert len(store.overdue_wake_ups(older_than_s=5)) == 1
    assert taken.created


def test_a_deactivated_lane_is_activated(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> None:
    """Maintenance deactivates empty lanes, and the next job activates its lane."""
    store.submit([make_job()])
    (claim,) = store.claim(claim_request())
    store.release_due()
    assert store.claim(claim_request()) == []

    store.requeue(claim, Outcome.released("handed over"))
    (again,) = store.claim(claim_request())
    store.finish(again, Outcome.succeeded())
    store.release_due()
    store.submit([make_job()])

    assert len(store.claim(claim_request())) == 1
