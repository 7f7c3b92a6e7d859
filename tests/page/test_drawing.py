"""The geometry of the page's drawings, for any numbers."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.page.drawing.attempt_bar import WIDTH, draw_attempts
from nsai_work.page.drawing.axes import Axis, curve_range, loss_range
from nsai_work.page.drawing.loss_curve import draw_curve
from nsai_work.page.drawing.sparkline import sparkline
from nsai_work.page.views.parts.curve_data import CheckpointMarks, CurveData, RecoveryLine
from nsai_work.page.views.parts.time_use import time_use
from nsai_work.store.records import AttemptRow

FINITE = st.floats(-1e9, 1e9)


@given(low=FINITE, span=st.floats(1e-6, 1e9), count=st.integers(2, 12))
def test_ticks_are_round_and_within_the_axis(low: float, span: float, count: int) -> None:
    """About as many as were asked for, in order, with labels that differ."""
    axis = Axis(low, low + span, 0, 1000)
    ticks = axis.ticks(count)

    assert len(ticks) <= 2 * count + 2
    assert all(-0.5 <= tick.at <= 1000.5 for tick in ticks)
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)


@given(st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=20))
def test_a_range_holds_all_finite_losses(losses: list[float]) -> None:
    """Whatever else is among them; it is never empty."""
    low, high = loss_range(losses)

    assert low < high or high > 1e300
    assert all(low <= loss <= high for loss in losses if abs(loss) < 1e300)


@pytest.mark.parametrize("losses", [[], [1.0], [1.0, 1.0], [float("nan"), 2.0, 1.0]])
def test_short_curves(losses: list[float]) -> None:
    """No step, one, and equal ones are drawn without an error."""
    steps = list(range(1, len(losses) + 1))
    drawing = draw_curve(CurveData(steps=steps, loss=losses, low=losses, high=losses))

    assert bool(drawing.y_ticks) == bool(losses)
    assert (drawing.newest is not None) == bool(losses)
    assert sparkline([loss for loss in losses if loss == loss]) == "" or len(losses) > 1


def test_a_first_fall_does_not_press_a_long_curve_into_a_line() -> None:
    """It begins above the axis, and a text says from where; a later peak, a short curve and one that rises are
    whole."""
    steps = list(range(1, 1001))
    losses = [3.0 - 0.5 * step if step < 6 else 0.4 + step % 7 / 100 for step in steps]
    drawing = draw_curve(CurveData(steps=steps, loss=losses, low=losses, high=losses))

    low, high = curve_range(steps, losses, losses)
    assert low < 0.4
    assert 0.46 < high < 0.5
    assert drawing.fall is not None
    assert drawing.fall.title == "falls from 2.5 at first"
    assert all(drawing.top <= y <= drawing.bottom for _, y in _points(drawing.lines[0].path))

    peak = [*losses[:500], 5.0, *losses[501:]]
    rising = [-value for value in losses]
    for whole, until in ((peak, 1000), (rising, 1000), (losses, 400)):
        low, high = curve_range(steps[:until], whole[:until], whole[:until])
        assert low <= min(whole[:until])
        assert high >= max(whole[:until])


def test_many_checkpoints_are_ticks_and_repeated_steps_a_band() -> None:
    """Below the curve, which circles would cover; from the step that a restore began with to the one it was at."""
    steps = list(range(1, 101))
    losses = [1.0] * 100
    back = RecoveryLine(step=87, since=80, mode="exact", text="exact", title="exact")
    marks = CheckpointMarks(steps=steps[:60], names=[f"s{step}" for step in steps[:60]])
    columns = {"loss": losses, "low": losses, "high": losses}
    drawing = draw_curve(CurveData(steps=steps, **columns, checkpoints=marks, recoveries=[back]))

    assert drawing.checkpoints == []
    assert drawing.checkpoint_path.count(f",{drawing.bottom}v-6") == 60
    (recovery,) = drawing.recoveries
    assert recovery.x - recovery.since_x == pytest.approx(7 / 100 * (drawing.right - drawing.left), abs=0.2)


def _points(path: str) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in (point.split(",") for point in path.removeprefix("M").split(" L"))]


def test_attempts_fill_the_time_that_they_took() -> None:
    """From the creation of the job to now: a short one is still seen, a running one reaches the end."""
    began = datetime(2026, 1, 1, tzinfo=UTC)

    def attempt(start: float, end: float | None, outcome: str | None) -> AttemptRow:
        ended = None if end is None else began + timedelta(seconds=end)
        return AttemptRow(1, 1, "w", "fake", began + timedelta(seconds=start), ended, outcome, None)

    rows = [attempt(10, 10.001, "lost"), attempt(50, None, None)]
    short, running = draw_attempts(rows, began, began + timedelta(seconds=100))

    assert (short.x, short.outcome) == (pytest.approx(WIDTH * 0.1), "lost")
    assert short.width >= 3
    assert running.x + running.width == pytest.approx(WIDTH)
    assert draw_attempts([], began, began) == []
    # a clock that was set back draws no negative width
    assert all(each.width > 0 for each in draw_attempts([attempt(5, 1, "lost")], began, began))


def test_uses_of_time_fill_the_bar() -> None:
    """The largest first, each where the one before ends; a block without time has none."""
    used = time_use({"wall_s": 10.0, "ratio": 0.7, "productive_s": 7.0, "queued_s": 1.0, "restoring_s": 2.0})

    assert used is not None
    assert [(part.use, part.share, round(part.start, 6)) for part in used.parts] == [
        ("productive", 0.7, 0.0),
        ("restoring", 0.2, 0.7),
        ("queued", 0.1, 0.9),
    ]
    assert time_use({"wall_s": 0.0, "ratio": 0.0}) is None
    assert time_use({}) is None
