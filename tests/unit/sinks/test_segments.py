"""Which remote runs begin a new segment, and when that is known."""

import pytest

from crucible.training import RunRef
from nsai_work.journal import RemoteRun, ResumeMode, SinkMark
from nsai_work.sinks.segments import advanced

MARK = SinkMark(generation=1, step=30, evaluated=20)


def run(generation: int, resume: ResumeMode, from_step: int = 20, lost_steps: int = 10) -> RemoteRun:
    """A remote run."""
    restored = None if resume in (ResumeMode.FRESH, ResumeMode.RESTARTED) else "x://r/weights/a"
    return RemoteRun(
        generation=generation,
        ref=RunRef(backend="x", run_id=f"r{generation}"),
        from_step=from_step,
        resume=resume,
        restored_from=restored,
        lost_steps=lost_steps,
    )


FIRST = run(1, ResumeMode.FRESH, 0, 0)


def test_the_first_run_is_the_first_segment() -> None:
    """Before it there is nothing to write."""
    assert advanced(SinkMark(), [], {}) == SinkMark()
    assert advanced(SinkMark(), [FIRST], {1: 3}) == SinkMark(generation=1)


@pytest.mark.parametrize("resume", [ResumeMode.EXACT, ResumeMode.WARM])
def test_equal_steps_are_not_written_again(resume: ResumeMode) -> None:
    """The mark stays where it is, beyond the begin of the new run."""
    assert advanced(MARK, [FIRST, run(2, resume)], {2: 1}) == MARK.model_copy(update={"generation": 2})


@pytest.mark.parametrize(
    ("resume", "from_step", "evaluated"),
    [(ResumeMode.COLD, 20, 20), (ResumeMode.COLD, 10, 10), (ResumeMode.RESTARTED, 0, -1)],
)
def test_a_run_that_is_not_equal_begins_a_segment(resume: ResumeMode, from_step: int, evaluated: int) -> None:
    """Whose points are written from its begin on, also where another segment had them."""
    found = advanced(MARK, [FIRST, run(2, resume, from_step)], {2: 1})

    assert found == SinkMark(
        segment=2, generation=2, from_step=from_step, resume=resume, step=from_step, evaluated=evaluated
    )


@pytest.mark.parametrize(
    ("lost", "recorded", "ended", "begins"),
    [
        (10, 0, False, None),
        (10, 2, False, None),
        (10, 3, False, True),
        (10, 2, True, True),
        (10, 0, True, False),
        (1, 1, False, None),
        (1, 2, False, True),
        (0, 0, False, None),
        (0, 1, False, True),
        (0, 0, True, False),
    ],
)
def test_an_unverified_run_is_waited_for(lost: int, recorded: int, ended: bool, begins: bool | None) -> None:
    """Until it cannot be proven any more; one that recorded nothing and has ended left nothing."""
    found = advanced(MARK, [FIRST, run(2, ResumeMode.UNVERIFIED, 20, lost)], {2: recorded}, ended=ended)

    assert (None if found is None else found.segment == 2) == begins


def test_each_run_in_between_counts() -> None:
    """An exact one after a cold one goes on with the segment of the cold one; one without a step is passed over."""
    cold, exact = run(2, ResumeMode.COLD, 20), run(3, ResumeMode.EXACT, 25)
    found = advanced(MARK, [FIRST, cold, exact], {2: 8, 3: 1})
    assert found is not None
    assert (found.segment, found.generation, found.step) == (2, 3, 20)

    died = run(2, ResumeMode.UNVERIFIED, 20)
    found = advanced(MARK, [FIRST, died, run(3, ResumeMode.EXACT, 20)], {3: 3})
    assert found == MARK.model_copy(update={"generation": 3})


def test_a_mark_that_is_up_to_date_stays() -> None:
    """However its own run resumed."""
    mark = MARK.model_copy(update={"generation": 2})
    assert advanced(mark, [FIRST, run(2, ResumeMode.COLD)], {2: 30}) == mark
