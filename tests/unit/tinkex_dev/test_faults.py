"""Scheduled faults strike at their moment, as often as requested."""

from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex_dev.faults import CorruptionMode, CorruptRun, FailOperation, Faults, RouteFault


@given(skip=st.integers(0, 4), count=st.integers(1, 4), others=st.lists(st.booleans(), max_size=20))
def test_a_route_fault_hits_its_own_calls_in_its_own_window(skip: int, count: int, others: list[bool]):
    """Of the calls to its route, exactly those from ``skip`` on are hit, ``count`` of them; no other call is."""
    faults = Faults()
    faults.add(RouteFault(route="mine", status=503, skip=skip, count=count))
    hits = []
    for is_other in others:
        struck = faults.strike("other" if is_other else "mine") is not None
        if is_other:
            assert not struck
        else:
            hits.append(struck)

    assert hits == [skip <= place < skip + count for place in range(len(hits))]


@given(skip=st.integers(0, 4), count=st.integers(1, 4), others=st.lists(st.booleans(), max_size=20))
def test_a_failing_operation_fails_in_its_own_window(skip: int, count: int, others: list[bool]):
    """Of the operations of its kind, those from ``skip`` on fail, ``count`` of them; no other does."""
    faults = Faults()
    faults.add(FailOperation(operation="mine", skip=skip, count=count))
    failures = [(is_other, faults.failure_due("other" if is_other else "mine") is not None) for is_other in others]

    assert not any(failed for is_other, failed in failures if is_other)
    mine = [failed for is_other, failed in failures if not is_other]
    assert mine == [skip <= place < skip + count for place in range(len(mine))]


def test_corruption_waits_for_its_step_and_its_model():
    """It strikes the named model at the step, once."""
    faults = Faults()
    faults.add(CorruptRun(model_id="a", mode=CorruptionMode.NAN, after_optim_steps=3))

    seen = [faults.corruption_due(model, steps) for model, steps in (("b", 9), ("a", 2), ("a", 3), ("a", 4))]

    assert seen == [None, None, CorruptionMode.NAN, None]


def test_cleared_faults_do_not_strike():
    """After clear nothing is scheduled."""
    faults = Faults()
    faults.add(RouteFault(status=500))
    faults.cold_loads, faults.out_of_credit = 2, True

    faults.clear()

    assert (faults.strike("x"), faults.consume_cold_load(), faults.scheduled()) == (None, False, [])
