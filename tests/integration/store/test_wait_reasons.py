"""Why a job waits is known within five seconds: when it is shown and listed, in its column, and as an event."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from nsai_work.job import Job, Priority
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Outcome
from nsai_work.store.records import JobFilter
from nsai_work.store.wait_reasons.kinds import WaitKind, count_waits
from nsai_work.store.wait_reasons.reason import ORPHANED
from tests.integration.store.waiting_queue import BACKENDS, Queue, recorded


def no_worker(queue: Queue) -> Job:
    return queue.submit()


def the_worker_was_killed(queue: Queue) -> Job:
    queue.worker()
    queue.sweep_for(2)
    queue.alive.clear()
    return queue.submit()


def no_backend(queue: Queue) -> Job:
    queue.worker({"tinkex": "tinkex"})
    return queue.submit()


def no_priority(queue: Queue) -> Job:
    queue.worker(priorities=(Priority.REALTIME, Priority.INTERACTIVE))
    return queue.submit()


def limit_of_a_credential(queue: Queue) -> Job:
    queue.worker()
    queue.store.set_model_limit("account-a", 2)
    queue.run()
    queue.run()
    return queue.submit()


def quota_of_a_tenant(queue: Queue) -> Job:
    queue.worker()
    queue.store.set_tenant_quota("t", 1)
    queue.run(tenant_id="t")
    return queue.submit(tenant_id="t")


def full_group(queue: Queue) -> Job:
    queue.worker()
    group = {"concurrency_group": "g", "max_concurrent_in_group": 1}
    queue.run(constraints=group)
    return queue.submit(constraints=group)


def other_tenant(queue: Queue) -> Job:
    queue.worker()
    queue.submit(tenant_id="a")
    return queue.submit(tenant_id="b")


def other_priority(queue: Queue) -> Job:
    queue.worker()
    queue.submit(priority="realtime")
    return queue.submit(priority="offline")


def busy(queue: Queue) -> Job:
    queue.worker()
    queue.run()
    return queue.submit()


def start_time(queue: Queue) -> Job:
    queue.worker()
    return queue.submit(constraints={"not_before": "2026-01-02T00:00:00Z"})


def dependency(queue: Queue) -> Job:
    queue.worker()
    queue.run(id="first")
    return queue.submit(constraints={"depends_on": ["first"]})


def start_time_and_dependency(queue: Queue) -> Job:
    queue.worker()
    queue.run(id="first")
    start = queue.clock.now() + timedelta(seconds=2)
    return queue.submit(constraints={"depends_on": ["first"], "not_before": start})


def retry_delay(queue: Queue) -> Job:
    queue.worker()
    job = queue.submit()
    (claim,) = queue.store.claim(queue.claim_request())
    queue.store.requeue(claim, Outcome.released("out of credit", delay_s=300))
    return job


@pytest.mark.parametrize(
    ("scenario", "reason", "kind"),
    [
        (no_worker, "no worker is alive", WaitKind.NO_WORKER),
        (the_worker_was_killed, "no worker is alive", WaitKind.NO_WORKER),
        (no_backend, "no worker can run it: host-0: it has no backend 'fake'", WaitKind.NO_BACKEND),
        (no_priority, "no worker takes priority batch", WaitKind.NO_BACKEND),
        (limit_of_a_credential, "limit of account-a for all models is reached (2 of 2 running)", WaitKind.LIMIT),
        (quota_of_a_tenant, "quota of tenant t is used up (1 of 1 running)", WaitKind.LIMIT),
        (full_group, "concurrency group is full (1 of 1 running)", WaitKind.LIMIT),
        (other_tenant, "it is the turn of another tenant", WaitKind.TURN),
        (other_priority, "it is the turn of another priority", WaitKind.TURN),
        (busy, "waits for a free worker", WaitKind.BUSY),
        (start_time, "not before 2026-01-02T00:00:00+00:00", WaitKind.NOT_BEFORE),
        (dependency, "depends on first", WaitKind.DEPENDENCY),
        (start_time_and_dependency, "depends on first", WaitKind.DEPENDENCY),
    ],
)
def test_every_wait_has_its_reason(
    queue: Queue, scenario: Callable[[Queue], Job], reason: str, kind: WaitKind
) -> None:
    """Within five seconds, wherever one looks; and it is counted by its kind."""
    job = scenario(queue)
    queue.sweep_for(5)

    assert queue.store.get(job.id).wait_reason == reason
    assert {listed.id: listed.wait_reason for listed in queue.store.list_jobs()}[job.id] == reason
    assert queue.store.database.read(count_waits)[kind] >= 1
    assert recorded(queue, job) == reason
    events = [event for event in queue.store.events(job.id) if "reason" in event.data]
    assert events[-1].data["reason"] == reason
    assert events[-1].name in ("job.waiting", "job.submitted")
    # of nothing but changes there are events
    queue.sweep_for(5)
    assert [event for event in queue.store.events(job.id) if "reason" in event.data] == events


def test_a_delayed_retry_has_its_reason(queue: Queue) -> None:
    """The time and what the job waits for, with the transition."""
    job = retry_delay(queue)

    assert queue.store.get(job.id).wait_reason == "not before 2026-01-01T00:05:00+00:00 (out of credit)"
    assert recorded(queue, job) == "out of credit"
    assert queue.store.events(job.id)[-1].data["reason"] == "out of credit"
    assert queue.store.database.read(count_waits)[WaitKind.CREDIT] == 1


def test_the_reason_of_a_requeue_stands_while_nothing_else_holds_the_job_up(queue: Queue) -> None:
    """Whatever its words: also those of another reason, which stands meanwhile."""
    queue.worker()
    job = queue.submit()
    requeued = "no worker slot was free at the service"
    (claim,) = queue.store.claim(queue.claim_request())
    queue.store.requeue(claim, Outcome.released(requeued))
    workers, seen = [*queue.alive], []
    for alive in (workers, [], workers):
        queue.alive[:] = alive
        queue.clock.pass_time(0 if alive else 3600)
        queue.sweep_for(4)
        seen.append((queue.store.get(job.id).wait_reason, recorded(queue, job)))

    assert seen == [(requeued, requeued), ("no worker is alive", "no worker is alive"), (requeued, requeued)]


def test_the_reason_of_a_delay_ends_with_it(queue: Queue) -> None:
    """A job whose delay is over waits for a worker, not for what it was delayed for."""
    job = retry_delay(queue)
    queue.sweep_for(2)
    queue.clock.pass_time(298)
    queue.sweep_for(5)

    assert queue.store.get(job.id).wait_reason == recorded(queue, job) == "waits for a free worker"


def test_the_job_of_a_dead_worker_says_so(queue: Queue) -> None:
    """Until it runs again."""
    queue.worker()
    job = queue.run()
    queue.store.reclaim(queue.store.leases())
    queue.sweep_for(4)

    assert queue.store.get(job.id).wait_reason == recorded(queue, job) == "worker_lost"
    assert queue.store.database.read(count_waits)[WaitKind.REQUEUED] == 1
    queue.store.claim(queue.claim_request(limit=100, backends=BACKENDS))
    assert recorded(queue, job) is None


def test_a_changed_reason_is_another_event(queue: Queue) -> None:
    """The log says for what the job waited, in order, until it ran."""
    job = queue.submit(priority="offline")
    queue.sweep_for(4)
    queue.worker()
    queue.store.set_tenant_quota("default", 0)
    queue.sweep_for(2)
    queue.store.set_tenant_quota("default", None)
    queue.sweep_for(2)
    queue.store.claim(queue.claim_request())

    assert [event.data.get("reason") for event in queue.store.events(job.id)][1:] == [
        "no worker is alive",
        "quota of tenant default is used up (0 of 0 running)",
        "waits for a free worker",
        None,
    ]
    assert recorded(queue, job) is None


def test_a_job_that_is_claimed_soon_has_no_such_event(queue: Queue) -> None:
    """Only one that waits for two seconds."""
    queue.worker()
    job = queue.submit()
    queue.sweep_for(1)
    queue.store.claim(queue.claim_request())
    queue.sweep_for(3)

    assert [event.name for event in queue.store.events(job.id)] == ["job.submitted", "job.running"]


def test_dependencies_are_named_until_they_have_ended(queue: Queue) -> None:
    """Each that ends is a change."""
    queue.worker()
    for name in ("first", "second"):
        queue.submit(id=name)
    job = queue.submit(constraints={"depends_on": ["first", "second"]})
    assert recorded(queue, job) == "depends on first, second"

    for claim in queue.store.claim(queue.claim_request(limit=2)):
        queue.store.finish(claim, Outcome.succeeded())
        if claim.job_id == "first":
            assert recorded(queue, job) == queue.store.get(job.id).wait_reason == "depends on second"

    assert [(event.name, event.data.get("reason")) for event in queue.store.events(job.id)] == [
        ("job.submitted", "depends on first, second"),
        ("job.waiting", "depends on second"),
        ("job.queued", None),
    ]


def test_a_deadline_that_passes_says_what_the_job_waited_for(queue: Queue) -> None:
    """In the error, for a queued and for a pending job."""
    deadline = {"deadline": queue.clock.now() + timedelta(seconds=4)}
    queued = queue.submit(constraints=deadline)
    pending = queue.submit(constraints={**deadline, "depends_on": [queue.submit(id="other").id]})
    queue.sweep_for(4)

    for job, status, reason in ((queued, "queued", "no worker is alive"), (pending, "pending", "depends on ")):
        ended = queue.store.get(job.id)
        assert ended.status is JobStatus.TIMEOUT
        assert ended.error is not None
        assert f"passed while it was {status}: {reason}" in ended.error.message
        assert str(ended.error.details["wait_reason"]).startswith(reason)


def test_a_job_whose_worker_died_does_not_seem_to_run(queue: Queue) -> None:
    """While no worker is alive that would find out, commands that read the job do. A job of a worker that lives has
    no such reason, nor one that a worker takes over."""
    queue.worker()
    queue.worker()
    owner, other = queue.alive
    job = queue.submit()
    queue.store.claim(queue.claim_request(limit=1, backends=BACKENDS, worker_id=owner))
    assert queue.store.get(job.id).wait_reason is None

    queue.alive.clear()
    queue.sweep_for(5)
    assert queue.store.get(job.id).status is JobStatus.RUNNING
    assert [seen.wait_reason for seen in queue.store.list_jobs(JobFilter())] == [ORPHANED]
    assert queue.store.get(job.id).wait_reason == ORPHANED

    queue.alive.append(other)
    queue.sweep_for(1)
    assert queue.store.get(job.id).wait_reason is None
