"""The observer's rule: an owner loses a job only after it has been absent, without a break, for the job's grace."""

import dataclasses

import pytest

from nsai_work.store.maintenance.absence import SETTLE_S, AbsenceWatch
from nsai_work.store.records import Absence, Lease

GRACE_S = 8.0
LONG_AGO = -1000.0


def lease(grace_s: float | None = GRACE_S, *, beat: int = 1, worker_id: str = "w") -> Lease:
    """The lease of a job of w."""
    return Lease(1, "job", 1, beat, 15.0, worker_id, grace_s)


def absent(*worker_ids: str, session_began_at: float | None = LONG_AGO) -> Absence:
    """What an observer sees that has been connected for long."""
    return Absence(frozenset(worker_ids), session_began_at)


@pytest.mark.parametrize("grace_s", [0.0, 0.5, GRACE_S, 60.0])
def test_a_lease_ends_when_the_grace_is_over(grace_s: float) -> None:
    """Not sooner; of a process that has ended for certain at once."""
    watch, owned = AbsenceWatch(), lease(grace_s)

    assert watch.ended([owned], absent("w"), 100.0) == ([owned] if grace_s == 0 else [])
    assert watch.next_end == 100.0 + grace_s
    assert watch.ended([owned], absent("w"), 100.0 + grace_s * 0.99) == ([owned] if grace_s == 0 else [])
    assert watch.ended([owned], absent("w"), 100.0 + grace_s) == [owned]


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(([lease()], absent()), id="the owner was present"),
        pytest.param(([], absent("w")), id="the job did not run"),
        pytest.param(([lease(beat=2)], absent("w")), id="the lease was renewed"),
        pytest.param(([lease()], absent("w", session_began_at=LONG_AGO + 1)), id="the observer's session broke"),
    ],
)
def test_a_break_begins_the_grace_again(between: tuple[list[Lease], Absence]) -> None:
    """Whatever the observer saw in between that shows that the absence was not one."""
    watch, owned = AbsenceWatch(), lease()
    watch.ended([owned], absent("w"), 100.0)
    leases, absence = between
    watch.ended(leases, absence, 101.0)
    owned = leases[0] if leases else owned
    seen = dataclasses.replace(absence, worker_ids=frozenset(["w"]))

    assert watch.ended([owned], seen, 100.0 + GRACE_S) == []
    assert watch.ended([owned], seen, 101.0 + GRACE_S) == ([owned] if absence.worker_ids and leases else [])
    assert watch.ended([owned], seen, 100.0 + 2 * GRACE_S) == [owned]


def test_without_a_grace_the_lease_alone_counts() -> None:
    """As for workers behind a pooler."""
    watch = AbsenceWatch()

    assert watch.ended([lease(None)], absent("w"), 100.0) == []
    assert watch.ended([lease(None)], absent("w"), 1e9) == []
    assert watch.next_end is None


@pytest.mark.parametrize("grace_s", [0.5, GRACE_S])
def test_an_observer_judges_only_when_it_has_been_connected_for_long_enough(grace_s: float) -> None:
    """After a restart of the database the first to reconnect gives the others time to do so."""
    watch, owned = AbsenceWatch(), lease(grace_s)
    absence = absent("w", session_began_at=100.0)
    judges_at = 100.0 + max(grace_s, SETTLE_S)
    watch.ended([owned], absence, 100.0)

    assert watch.ended([owned], absence, judges_at - 0.01) == []
    assert watch.next_end == judges_at
    assert watch.ended([owned], absence, judges_at) == [owned]


def test_each_owner_counts_on_its_own() -> None:
    """The absence of one says nothing of another."""
    watch = AbsenceWatch()
    gone, there = lease(worker_id="gone"), dataclasses.replace(lease(worker_id="there"), seq=2)
    watch.ended([gone, there], absent("gone"), 100.0)

    assert watch.ended([gone, there], absent("gone", "there"), 100.0 + GRACE_S) == [gone]
