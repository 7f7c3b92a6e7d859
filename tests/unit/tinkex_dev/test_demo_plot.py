"""The demo's loss plot."""

import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.tinkex_dev.demo.plot import LossPlot
from nsai_work.presentation.ticks import tick_size

losses = st.lists(st.floats(0, 1e6), min_size=2, max_size=200)


@given(undisturbed=losses, data=st.data())
def test_any_two_runs_make_a_well_formed_picture(undisturbed: list[float], data: st.DataObject) -> None:
    """Also for flat, zero and enormous losses, and a run that broke off."""
    recovered = data.draw(losses)
    corrupted = data.draw(st.integers(1, len(undisturbed)))
    svg = LossPlot(undisturbed, recovered, corrupted_at=corrupted, resumed_from=corrupted - 1).svg()

    root = ET.fromstring(svg)
    assert len(root.findall("{http://www.w3.org/2000/svg}polyline")) == 2


def test_it_claims_equality_only_when_it_is_so() -> None:
    """The heading depends on the data."""
    same = LossPlot([3.0, 2.0], [3.0, 2.0], corrupted_at=2, resumed_from=1)
    other = LossPlot([3.0, 2.0], [3.0, 2.5], corrupted_at=2, resumed_from=1)

    assert "same losses, step for step" in same.svg()
    assert "same losses, step for step" not in other.svg()
    assert "largest difference: 0.5" in other.svg()


@pytest.mark.parametrize(("highest", "size"), [(6.0, 1.0), (0.5, 0.1), (57.0, 10.0), (0.0012, 0.0002), (11.0, 2.0)])
def test_ticks_are_round_numbers(highest: float, size: float) -> None:
    """1, 2 or 5 times a power of ten."""
    assert tick_size(highest) == pytest.approx(size)
