"""The life cycle: no sequence of transitions leaves the table."""

import contextlib
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.errors import IllegalTransition
from nsai_work.lifecycle import ENDED, TRANSITIONS, JobStatus, check_transition


@pytest.mark.parametrize("old", JobStatus)
@pytest.mark.parametrize("new", JobStatus)
def test_each_transition_is_in_the_table_or_rejected(old: JobStatus, new: JobStatus) -> None:
    """The error names both statuses and the allowed transitions."""
    if new in TRANSITIONS[old]:
        check_transition(old, new)
    else:
        with pytest.raises(IllegalTransition, match=f"from {old} to {new}"):
            check_transition(old, new)


@given(st.lists(st.sampled_from(JobStatus), max_size=30))
def test_a_life_never_leaves_its_table(wishes: list[JobStatus]) -> None:
    """Only allowed transitions happen; a success is final; a job runs only from queued, and waits for others only
    until then, or when it is retried."""
    life = [JobStatus.PENDING]
    for wish in wishes:
        with contextlib.suppress(IllegalTransition):
            check_transition(life[-1], wish)
            life.append(wish)

    for old, new in pairwise(life):
        assert new in TRANSITIONS[old]
        assert old is not JobStatus.SUCCEEDED
        assert new is not JobStatus.RUNNING or old is JobStatus.QUEUED
        assert new is not JobStatus.PENDING or old in ENDED


def test_every_status_is_in_the_table_and_can_end() -> None:
    """A final status is reachable from every status."""
    assert set(TRANSITIONS) == set(JobStatus)
    for status in JobStatus:
        reachable = {status}
        for _ in JobStatus:
            reachable |= {new for old in reachable for new in TRANSITIONS[old]}
        assert reachable & ENDED
