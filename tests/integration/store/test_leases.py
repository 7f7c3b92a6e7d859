"""Leases and rescue: an owner loses its job only after it has been silent for the lease's time."""

from collections.abc import Callable

import pytest

from nsai_work.errors import LeaseLost
from nsai_work.job import Job
from nsai_work.journal import StepRecord
from nsai_work.journal.rollouts import RolloutRecord, RolloutStatus
from nsai_work.lifecycle import JobStatus
from nsai_work.store import Claim, ClaimRequest, Election, Lease, LeaseWatch, Outcome, Store
from nsai_work.store.journal.reinforcement import rollouts
from nsai_work.store.maintenance.workers import register_worker, worker_seen
from nsai_work.store.worker_id import WorkerId

MakeJob = Callable[..., Job]
MakeRequest = Callable[..., ClaimRequest]


@pytest.fixture
def claim(store: Store, make_job: MakeJob, claim_request: MakeRequest) -> Claim:
    """A job that w1 runs with a lease of 10 seconds."""
    store.submit([make_job()])
    return store.claim(claim_request())[0]


def silence(store: Store, clock: object) -> list[Lease]:
    """The leases that a new observer finds expired after 11 seconds without heartbeats."""
    watch = LeaseWatch()
    watch.expired(store.leases(), clock.monotonic())
    clock.pass_time(11)
    return watch.expired(store.leases(), clock.monotonic())


def test_a_silent_owner_loses_its_job(
    store: Store, claim: Claim, claim_request: MakeRequest, clock: object
) -> None:
    """After the lease has expired, another worker gets the job, and the former owner is fenced off."""
    assert store.reclaim(silence(store, clock)) == {claim.job_id: JobStatus.QUEUED}

    (other,) = store.claim(claim_request("w2"))

    assert other.job_id == claim.job_id
    assert store.heartbeat([claim, other], 10).held == {claim.job_id}
    assert store.heartbeat([claim], 10).lost == {claim.job_id}
    with pytest.raises(LeaseLost):
        store.finish(claim, Outcome.succeeded())
    assert [attempt.outcome for attempt in store.attempts(claim.job_id)] == ["lost", None]


def test_an_owner_that_beats_keeps_its_job(store: Store, claim: Claim, clock: object) -> None:
    """A heartbeat between observation and reclaim defeats the reclaim."""
    expired = silence(store, clock)
    store.heartbeat([claim], 10)

    assert store.reclaim(expired) == {}
    store.finish(claim, Outcome.succeeded())


@pytest.mark.parametrize("step_s", [-3600, 3600], ids=["back", "forward"])
def test_leases_do_not_depend_on_the_wall_clock(store: Store, claim: Claim, clock: object, step_s: int) -> None:
    """A wall clock that steps by an hour neither ends a lease nor prolongs one."""
    watch = LeaseWatch()
    watch.expired(store.leases(), clock.monotonic())
    clock.step_wall(step_s)
    assert watch.expired(store.leases(), clock.monotonic()) == []

    clock.steady += 11

    assert [lease.job_id for lease in watch.expired(store.leases(), clock.monotonic())] == [claim.job_id]


def test_a_poison_job_fails(store: Store, claim: Claim, claim_request: MakeRequest, clock: object) -> None:
    """After five lost workers in a row without progress, the job fails with the workers as evidence."""
    for number in (2, 3, 4, 5):
        store.reclaim(silence(store, clock))
        store.claim(claim_request(f"w{number}"))

    assert store.reclaim(silence(store, clock)) == {claim.job_id: JobStatus.FAILED}

    error = store.get(claim.job_id).error
    assert error is not None
    assert error.code == "poison_job"
    assert [attempt["worker_id"] for attempt in error.details["attempts"]] == ["w5", "w4", "w3", "w2", "w1"]


def test_progress_resets_the_crashes(store: Store, claim: Claim, claim_request: MakeRequest, clock: object) -> None:
    """A job that makes progress never fails as a poison job, however often its workers die."""
    for step in range(1, 8):
        store.complete_step(claim, _step(step), step)
        assert store.reclaim(silence(store, clock)) == {claim.job_id: JobStatus.QUEUED}
        (claim,) = store.claim(claim_request())

    assert claim.attempt == 1
    # repeated steps are no progress
    store.complete_step(claim, _step(3, generation=2), 99)
    store.reclaim(silence(store, clock), max_crashes=1)
    assert store.get(claim.job_id).status is JobStatus.FAILED


def test_rollouts_reset_the_crashes(store: Store, claim: Claim, claim_request: MakeRequest, clock: object) -> None:
    """A step of rollouts may outlast many workers. A rollout that another run has repeated is no progress."""

    def end(claim: Claim, member: int, generation: int = 1, *, evaluated: bool = False) -> None:
        record = RolloutRecord(
            step=1, generation=generation, group=0, member=member, task=0, weights_step=0, evaluated=evaluated,
            status=RolloutStatus.DONE, reward=1.0, reason="done", turns=1, tokens=1,
        )  # fmt: skip
        store.database.run(lambda tx: rollouts.keep_rollouts(tx, [rollouts.NewRollouts(claim, ended=[record])]))

    for member in range(7):
        end(claim, member // 2, evaluated=bool(member % 2))
        assert store.reclaim(silence(store, clock), max_crashes=2) == {claim.job_id: JobStatus.QUEUED}
        (claim,) = store.claim(claim_request())
    end(claim, 0, generation=2)
    store.reclaim(silence(store, clock), max_crashes=2)
    assert store.get(claim.job_id).status is JobStatus.FAILED


def _step(step: int, generation: int = 1) -> StepRecord:
    return StepRecord(step=step, epoch=0, loss=1.0, tokens=1, learning_rate=0.1, generation=generation)


@pytest.mark.parametrize(
    "policy",
    [{"max_attempts": 1}, {"retryable_errors": ["timeout"]}],
    ids=["one-attempt", "worker-loss-not-listed"],
)
def test_a_policy_may_forbid_a_second_run(
    store: Store, make_job: MakeJob, claim_request: MakeRequest, clock: object, policy: dict[str, object]
) -> None:
    """A job that must not run twice fails with its worker."""
    (entry,) = store.submit([make_job(retry_policy=policy)])
    store.claim(claim_request())

    store.reclaim(silence(store, clock))

    error = store.get(entry.job_id).error
    assert error is not None
    assert error.code == "worker_lost"


def test_a_canceled_job_of_a_dead_worker_ends(store: Store, claim: Claim, clock: object) -> None:
    """It is not run again only to be stopped."""
    store.request_cancel(claim.job_id)

    assert store.reclaim(silence(store, clock)) == {claim.job_id: JobStatus.CANCELED}


def test_one_candidate_leads_until_it_is_silent(store: Store, clock: object) -> None:
    """An election has one winner; after its silence or resignation another candidate leads."""
    run = store.database.run
    first, second = Election("sweep", "w1", 10), Election("sweep", "w2", 10)

    assert [run(first.campaign), run(second.campaign), run(first.campaign)] == [True, False, True]
    clock.pass_time(11)
    assert run(second.campaign) is False, "the leader had beaten since the second looked last"
    clock.pass_time(11)
    assert run(second.campaign) is True
    assert run(first.campaign) is False
    run(second.resign)
    assert run(first.campaign) is True


def test_workers_are_listed(store: Store, clock: object) -> None:
    """With their start, and whether they have stopped."""
    me = WorkerId.of_this_process()
    store.database.run(register_worker, me, version="1", backends={"fake": "fake"})
    clock.pass_time(5)
    store.database.run(worker_seen, str(me), stopped=True)

    (row,) = store.workers()

    assert (row.id, row.pid, row.backends) == (str(me), me.pid, {"fake": "fake"})
    assert row.stopped_at == row.seen_at == clock.now()
