"""Axes: round ticks over a range of values, and their places in pixels."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from nsai_work.presentation.ticks import tick_size

LONG: Final = 500
"""The number of steps from which the first fall of a curve may leave an axis."""
FALL: Final = 0.02
"""The share of a curve's steps that its first fall may take."""
MAX_PRESSED: Final = 3.0
"""The factor by which the first fall may enlarge an axis."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A labelled place on an axis, in pixels."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Axis:
    """A linear axis from ``low`` to ``high`` over the pixels from ``start`` to ``end``."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        """The pixel of a value."""
        span = (self.high - self.low) or 1.0
        return round(self.start + (self.end - self.start) * (value - self.low) / span, 1)

    def ticks(self, count: int, *, whole: bool = False) -> list[Tick]:
        """About ``count`` round ticks; with ``whole``, whole numbers only."""
        size = tick_size(self.high - self.low, count)
        size = max(1.0, float(round(size))) if whole else size
        first = math.ceil(self.low / size - 1e-9)
        last = math.floor(self.high / size + 1e-9)
        ticks = [Tick(self.at(index * size), _label(index * size, size)) for index in range(first, last + 1)]
        # far from 0, a short range has fewer digits than its ticks
        near, far = sorted((self.start, self.end))
        return [tick for tick in ticks if near <= tick.at <= far]


def loss_range(values: Iterable[float]) -> tuple[float, float]:
    """The range of an axis for losses: from 0 if they come near it, and with room at both ends otherwise."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.5
    floor = 0.0 if 0 <= low < 0.4 * high else low - margin
    return floor, high + margin


def curve_range(
    steps: Sequence[int], low: Sequence[float], high: Sequence[float], others: Iterable[float] = ()
) -> tuple[float, float]:
    """The range of an axis for a curve and other values. A long curve's first fall, which would press all that
    follows into a line, begins above it."""
    whole = loss_range([*low, *high, *others])
    if not steps or steps[-1] < LONG:
        return whole
    start = next(index for index, step in enumerate(steps) if step > steps[-1] * FALL)
    bottom, top = loss_range([*low[start:], *high[start:]])
    top += (top - bottom) / 4
    if (top - bottom) * MAX_PRESSED > whole[1] - whole[0] or any(value < bottom for value in low[:start]):
        return whole
    return bottom, top


def _label(value: float, size: float) -> str:
    digits = max(0, -math.floor(math.log10(size) + 1e-9))
    return f"{value:,.{digits}f}"
