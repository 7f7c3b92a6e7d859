"""A loss curve in the size of a word."""

from collections.abc import Sequence
from typing import Final

from nsai_work.page.drawing.axes import Axis

WIDTH: Final = 120
HEIGHT: Final = 24


def sparkline(losses: Sequence[float]) -> str:
    """The path of losses at even distances; empty for fewer than two."""
    if len(losses) < 2:
        return ""
    x = Axis(0, len(losses) - 1, 1, WIDTH - 1)
    y = Axis(min(losses), max(losses), HEIGHT - 2, 2)
    return "M" + " L".join(f"{x.at(index)},{y.at(loss)}" for index, loss in enumerate(losses))
