"""Many owners and observers with an adversarial clock against one store, checked against its invariants.

Owners die, and their sessions break and are replaced; observers see which sessions there are, and reconnect too.
"""

from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text
from sqlalchemy.event import listen

from nsai_work.errors import IllegalTransition, LeaseLost
from nsai_work.job import Job
from nsai_work.journal import StepRecord
from nsai_work.lifecycle import ENDED, JobStatus
from nsai_work.store import Claim, ClaimRequest, LeaseWatch, Outcome, Store
from nsai_work.store.maintenance.absence import SETTLE_S
from nsai_work.store.records import Absence
from nsai_work.store.schema import metadata
from tests.integration.store.ownership import (
    GRACE_S,
    OBSERVERS,
    OWNERS,
    REPEATABLE_GRACE_S,
    TTL_S,
    WITHOUT_PRESENCE,
    Held,
    Observer,
    Owner,
    register,
)

UNSUCCESSFUL = ENDED - {JobStatus.SUCCEEDED}


class Ownership(RuleBasedStateMachine):
    """The actions of owners, observers, users and the clock, in any order."""

    store: Store
    clock: Any

    def __init__(self) -> None:
        super().__init__()
        _empty(self.store)
        self.jobs: list[str] = []
        self.held: list[Held] = []
        self.observers = [Observer(self.now - SETTLE_S) for _ in range(OBSERVERS)]
        self.owners: dict[int, Owner] = {}
        self.deaths = 0
        for number in range(1, OWNERS + 1):
            self._start(number)

    def _start(self, number: int) -> None:
        """A new process of an owner."""
        worker_id = f"w{number}.{self.deaths}"
        self.owners[number] = Owner(worker_id, number != WITHOUT_PRESENCE, self.now, self.now)
        register(self.store, self.owners[number])

    @property
    def now(self) -> float:
        """The monotonic clock, shared by all processes."""
        return float(self.clock.monotonic())

    @initialize()
    def begin(self) -> None:
        """Two jobs run and a third is queued at the start."""
        self.submit(count=3, tenant="a", depends=False)
        self.claim(owner=1, limit=2)

    @rule(count=st.integers(1, 3), tenant=st.sampled_from("ab"), depends=st.booleans())
    def submit(self, count: int, tenant: str, depends: bool) -> None:
        """Submit jobs, some of which depend on an earlier one of the same tenant."""
        for _ in range(count):
            own = [job_id for job_id in self.jobs if job_id.startswith(tenant)]
            needs = [own[-1]] if depends and own else []
            job = Job(
                id=f"{tenant}{len(self.jobs)}",
                kind="tool_call",
                payload={"command": "noop"},
                tenant_id=tenant,
                constraints={"depends_on": needs},
            )
            self.store.submit([job])
            self.jobs.append(job.id)

    @rule(owner=st.integers(1, OWNERS), limit=st.integers(1, 3))
    def claim(self, owner: int, limit: int) -> None:
        """An owner claims jobs."""
        process, sent_at = self.owners[owner], self.now
        process.connect(sent_at)
        grace_s = GRACE_S if process.has_presence else None
        for claim in self.store.claim(ClaimRequest(process.worker_id, limit, TTL_S, grace_s=grace_s)):
            self.held.append(Held(claim, process, sent_at))

    @rule(owner=st.integers(1, OWNERS))
    def kill(self, owner: int) -> None:
        """A process dies, and with it its session; another one is started."""
        process = self.owners[owner]
        process.connected = False
        for held in self.held:
            held.given_up = held.given_up or held.owner is process
        self.deaths += 1
        self._start(owner)

    @rule(owner=st.integers(1, OWNERS))
    def cut(self, owner: int) -> None:
        """A session ends at the server, with the heartbeats on their way; its owner may not notice."""
        process = self.owners[owner]
        process.connected = False
        for held in self.held:
            if held.owner is process:
                held.beat_sent_at = None

    @rule(owner=st.integers(1, OWNERS))
    def use(self, owner: int) -> None:
        """An owner uses its session, and replaces it if it has ended."""
        self.owners[owner].connect(self.now)

    @rule()
    def restart_database(self) -> None:
        """All sessions end; the observers are the first to reconnect."""
        for number in self.owners:
            self.cut(number)
        for observer in self.observers:
            observer.session_began_at = self.now

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def become_repeatable(self, data: st.DataObject) -> None:
        """A job's work can be repeated from now on; its next heartbeat says so."""
        data.draw(st.sampled_from(self.held)).repeatable = True

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def send_beat(self, data: st.DataObject) -> None:
        """A heartbeat is sent; it may arrive late, or never."""
        held = data.draw(st.sampled_from(self.held))
        if held.beat_sent_at is None and not self._is_dead(held):
            held.beat_sent_at = self.now

    @precondition(lambda self: any(held.beat_sent_at is not None for held in self.held))
    @rule(data=st.data())
    def land_beat(self, data: st.DataObject) -> None:
        """A heartbeat arrives at the store, however late, and its report at the owner."""
        self._land(data.draw(st.sampled_from([held for held in self.held if held.beat_sent_at is not None])))

    def _land(self, held: Held) -> None:
        sent_at, held.beat_sent_at = held.beat_sent_at, None
        assert sent_at is not None
        exclusive = held.exclusive(self.now)
        held.owner.connect(sent_at if held.owner.connected else self.now)
        grace_s = REPEATABLE_GRACE_S if held.repeatable else GRACE_S
        graces_s = {held.claim.job_id: grace_s if held.owner.has_presence else None}
        report = self.store.heartbeat([held.claim], TTL_S, graces_s)
        assert report.held == {held.claim.job_id} if self._current(held) else report.lost == {held.claim.job_id}
        if report.lost:
            assert not exclusive
            held.given_up = True
        elif held.leased(self.now):
            held.renewed_at = sent_at

    @precondition(lambda self: self.held)
    @rule(data=st.data(), how=st.sampled_from(["finish", "fail", "retry", "pause", "step"]))
    def write(self, data: st.DataObject, how: str) -> None:
        """An owner writes, perhaps long after it has lost the job."""
        held = data.draw(st.sampled_from(self.held))
        current, before = self._current(held), self._state(held)
        again = held.given_up and self._repeats(held, how)
        exclusive = held.exclusive(self.now)
        held.owner.connect(self.now)
        try:
            self._write(held, how)
        except LeaseLost:
            assert not exclusive, "an owner that may do what cannot be repeated was fenced off"
            assert not current
            held.given_up = True
        else:
            assert current or again, "a stale owner's write was accepted"
            held.given_up = held.given_up or how != "step"
        if not current:
            assert self._state(held) == before, "a stale owner changed something"

    def _write(self, held: Held, how: str) -> None:
        claim = held.claim
        if how == "finish":
            self.store.finish(claim, Outcome.succeeded({"fence": claim.fence}))
        elif how == "fail":
            self.store.finish(claim, Outcome.failed())
        elif how == "step":
            self.store.complete_step(claim, _step(claim), 1)
        else:
            self.store.requeue(
                claim, Outcome.retried(how, delay_s=5.0) if how == "retry" else Outcome.released(how, delay_s=5.0)
            )

    def _repeats(self, held: Held, how: str) -> bool:
        """Whether the write repeats the recorded outcome of the claim's attempt."""
        expected = {"finish": "succeeded", "fail": "failed", "retry": "retried", "pause": "released"}.get(how)
        attempts = {attempt.fence: attempt.outcome for attempt in self.store.attempts(held.claim.job_id)}
        return expected is not None and attempts.get(held.claim.fence) == expected

    @rule(seconds=st.sampled_from([0.6, 3.0, 6.0, 9.0, 31.0]))
    def pass_time(self, seconds: float) -> None:
        """Both clocks advance."""
        self.clock.pass_time(seconds)

    @rule(hours=st.sampled_from([-1, 1]))
    def step_wall_clock(self, hours: int) -> None:
        """The wall clock is set."""
        self.clock.step_wall(3600 * hours)

    @rule(number=st.integers(0, OBSERVERS - 1), acts=st.booleans())
    def observe(self, number: int, acts: bool) -> None:
        """An observer reads the leases, then the presence, and reclaims what has ended now or later."""
        observer, leases = self.observers[number], self.store.leases()
        present = {owner.worker_id for owner in self.owners.values() if owner.connected and owner.has_presence}
        absent = frozenset(lease.worker_id for lease in leases) - present
        absence = Absence(absent, observer.session_began_at)
        observer.ended = observer.watch.expired(leases, self.now)
        observer.ended += observer.absence.ended(leases, absence, self.now)
        if acts:
            self.act_late(number)

    @rule(number=st.integers(0, OBSERVERS - 1))
    def act_late(self, number: int) -> None:
        """An observer reclaims what it found ended, perhaps long ago; any worker claims the jobs."""
        if self.store.reclaim(self.observers[number].ended, max_crashes=3):
            self.claim(owner=OWNERS, limit=3)

    @rule(number=st.integers(0, OBSERVERS - 1), seconds=st.sampled_from([0.6, GRACE_S - 0.5, GRACE_S, TTL_S + 1]))
    def silence(self, number: int, seconds: float) -> None:
        """No heartbeats and no sessions for almost, or for more than, a grace or a lease, while an observer
        watches."""
        self.observe(number, acts=False)
        self.clock.pass_time(seconds)
        self.observe(number, acts=True)

    @rule(number=st.integers(0, OBSERVERS - 1), owner=st.integers(1, OWNERS), renews=st.booleans())
    def return_unseen(self, number: int, owner: int, renews: bool) -> None:
        """An owner was back for a moment between two looks of an observer, and may have renewed its leases."""
        self.cut(owner)
        self.observe(number, acts=False)
        self.clock.pass_time(GRACE_S - 2)
        self.use(owner)
        self.check_presence()
        for held in self.held:
            if renews and held.owner is self.owners[owner] and self._current(held):
                held.beat_sent_at = self.now
                self._land(held)
        self.check_presence()
        self.cut(owner)
        self.clock.pass_time(3)
        self.observe(number, acts=True)

    @rule()
    def sweep(self) -> None:
        """The scheduler runs."""
        self.store.release_due()

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), retry=st.booleans())
    def steer(self, data: st.DataObject, retry: bool) -> None:
        """A user cancels a job, or retries an ended one."""
        job_id = data.draw(st.sampled_from(self.jobs))
        if not retry:
            self.store.request_cancel(job_id)
        elif (job := self.store.get(job_id)).status in UNSUCCESSFUL:
            broken = any(self.store.get(name).status in UNSUCCESSFUL for name in job.constraints.depends_on)
            with pytest.raises(IllegalTransition, match="depends on") if broken else nullcontext():
                self.store.retry(job_id)

    @invariant()
    def check_presence(self) -> None:
        """The owners look at their sessions."""
        for held in self.held:
            held.check_presence()

    @invariant()
    def one_owner_at_most(self) -> None:
        """No job has two owners that may do what cannot be repeated, and none beside one whose work can."""
        owners = Counter(held.claim.job_id for held in self.held if held.exclusive(self.now))
        assert all(count == 1 for count in owners.values()), owners
        for held in self.held:
            if held.exclusive(self.now):
                assert self._current(held), "another worker has the job of an owner that may go on"

    def teardown(self) -> None:
        """No job is lost: one good worker ends all of them, and every log is without a gap."""
        for _ in range(4 * len(self.jobs) + 4):
            self.clock.pass_time(TTL_S + 60)
            watch = LeaseWatch()
            watch.expired(self.store.leases(), self.now)
            self.clock.pass_time(TTL_S + 1)
            self.store.reclaim(watch.expired(self.store.leases(), self.now))
            self.store.release_due()
            for claim in self.store.claim(ClaimRequest("last", 50, TTL_S)):
                self.store.finish(claim, Outcome.succeeded())
            if all(job.status.ended for job in self.store.list_jobs(limit=1000)):
                break
        found = {job.id: job for job in self.store.list_jobs(limit=1000)}
        assert set(found) == set(self.jobs)
        for job in found.values():
            assert job.status.ended, f"{job.id} is still {job.status} ({job.wait_reason})"
            self._check_log(job)

    def _check_log(self, job: Job) -> None:
        status = None
        for event in self.store.events(job.id):
            if "to" in event.data:
                assert event.data.get("from") == status
                status = event.data["to"]
        assert status == job.status
        fences = [attempt.fence for attempt in self.store.attempts(job.id)]
        assert fences == list(range(1, job.fence + 1))

    def _is_dead(self, held: Held) -> bool:
        return held.owner not in self.owners.values()

    def _current(self, held: Held) -> bool:
        job = self.store.get(held.claim.job_id)
        return job.status is JobStatus.RUNNING and job.fence == held.claim.fence

    def _state(self, held: Held) -> object:
        job_id = held.claim.job_id
        return (self.store.get(job_id), self.store.steps(job_id), len(self.store.events(job_id)))


def _step(claim: Claim) -> StepRecord:
    return StepRecord(step=claim.fence, epoch=0, loss=1.0, tokens=1, learning_rate=0.1, generation=claim.fence)


def _empty(store: Store) -> None:
    def operation(tx: Any) -> None:
        if tx.postgres:
            tx.connection.execute(text(f"TRUNCATE {', '.join(metadata.tables)} CASCADE"))
        else:
            for table in reversed(metadata.sorted_tables):
                tx.connection.execute(table.delete())

    store.database.run(operation)


@pytest.fixture
def machine(store: Store, clock: Any) -> Callable[[], Ownership]:
    """Factory of state machines over one store. SQLite does not sync to the disk here, since no power fails."""
    if store.database.url.get_backend_name() == "sqlite":
        engine = store.database.engine()
        listen(engine, "connect", lambda raw, _: raw.execute("PRAGMA synchronous = OFF"))
        engine.dispose()
    return type("OwnershipHere", (Ownership,), {"store": store, "clock": clock})


@pytest.mark.timeout(600)
def test_ownership_holds_whatever_happens(machine: Callable[[], Ownership], url: str) -> None:
    """Never two owners with valid leases, never a write by a stale one, never a lost job."""
    examples = 10 if url.startswith("sqlite") else 6
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
