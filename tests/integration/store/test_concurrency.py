"""Concurrent use: each job has one owner, no limit is exceeded, no job is left behind."""

import threading
from collections import Counter
from collections.abc import Callable

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.store import ClaimRequest, JobFilter, Outcome, Store

MakeJob = Callable[..., Job]
THREADS = 4


def at_once(work: Callable[[int], None]) -> None:
    """Run the same work in several threads, and raise an error of any of them."""
    errors: list[BaseException] = []

    def guarded(number: int) -> None:
        try:
            work(number)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def test_each_job_goes_to_one_owner(store: Store, make_job: MakeJob) -> None:
    """While all threads submit, claim and finish, every job is run once."""
    worked: Counter[str] = Counter()
    submitted = [[make_job(tenant_id=f"t{number % 2}") for _ in range(20)] for number in range(THREADS)]
    all_in = threading.Barrier(THREADS)

    def work(number: int) -> None:
        for job in submitted[number]:
            store.submit([job])
        all_in.wait(60)
        while claims := store.claim(ClaimRequest(f"w{number}", 3, 30)):
            for claim in claims:
                worked[claim.job_id] += 1
                store.finish(claim, Outcome.succeeded())

    at_once(work)

    assert worked == Counter(job.id for jobs in submitted for job in jobs)
    assert len(store.list_jobs(JobFilter(status=JobStatus.SUCCEEDED), limit=200)) == 20 * THREADS


def test_limits_hold_under_pressure(store: Store, make_job: MakeJob) -> None:
    """Concurrent claims together never exceed the limit."""
    store.set_tenant_quota("default", 3)
    store.submit([make_job() for _ in range(30)])
    running, most, lock = 0, 0, threading.Lock()

    def work(number: int) -> None:
        nonlocal running, most
        for _ in range(200):
            claims = store.claim(ClaimRequest(f"w{number}", 2, 30))
            with lock:
                running += len(claims)
                most = max(most, running)
            for claim in claims:
                with lock:
                    running -= 1
                store.finish(claim, Outcome.succeeded())
            if not claims and not store.list_jobs(JobFilter(status=JobStatus.QUEUED), limit=1):
                return

    at_once(work)

    assert most <= 3
    assert len(store.list_jobs(JobFilter(status=JobStatus.SUCCEEDED))) == 30


def test_concurrent_submits_with_one_key_create_one_job(store: Store, make_job: MakeJob) -> None:
    """One of them creates the job, and all return it."""
    answers: list[tuple[str, bool]] = []
    together = threading.Barrier(THREADS)

    def work(_: int) -> None:
        job = make_job(idempotency_key="one")
        together.wait(30)
        (entry,) = store.submit([job])
        answers.append((entry.job_id, entry.created))

    at_once(work)

    assert len({job_id for job_id, _ in answers}) == 1
    assert [created for _, created in answers].count(True) == 1


def test_dependencies_that_end_together_queue_their_dependent(store: Store, make_job: MakeJob) -> None:
    """The last one to commit sees the others: no dependent is left pending."""
    for _ in range(5):
        needed = [make_job() for _ in range(THREADS)]
        last = make_job(constraints={"depends_on": [job.id for job in needed]}, priority="offline")
        store.submit([*needed, last])
        claims = store.claim(ClaimRequest("w", THREADS, 30))
        together = threading.Barrier(THREADS)

        def work(number: int, claims=claims, together=together) -> None:
            together.wait(30)
            store.finish(claims[number], Outcome.succeeded())

        at_once(work)

        (claim,) = store.claim(ClaimRequest("w", 5, 30))
        assert claim.job_id == last.id
        store.finish(claim, Outcome.succeeded())
