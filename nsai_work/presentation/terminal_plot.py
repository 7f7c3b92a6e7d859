"""Loss curves in a terminal, drawn with braille patterns, of which each character has two by four dots."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

COLORS: Final = ("cyan", "magenta", "yellow", "green", "red", "blue", "bright_cyan", "bright_magenta")
_DOTS: Final = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))
_BLANK: Final = 0x2800


@dataclass(frozen=True, slots=True)
class PlottedText:
    """A character of a plot, and the number of the curve that it shows; None for none."""

    text: str
    curve: int | None


def braille_rows(
    curves: Sequence[Sequence[tuple[float, float]]],
    *,
    width: int,
    height: int,
    x_range: tuple[float, float],
    y_range: tuple[float, float],
) -> list[list[PlottedText]]:
    """Draw curves, lists of points (x, y) in order, as ``height`` rows of ``width`` characters, the top one first.

    Where curves meet in a character, the later one is shown.
    """
    dots = [[0] * width for _ in range(height)]
    owners: list[list[int | None]] = [[None] * width for _ in range(height)]
    for number, points in enumerate(curves):
        placed = [_dot(point, width * 2, height * 4, x_range, y_range) for point in points]
        for start, end in zip(placed, [*placed[1:], *placed[-1:]], strict=True):
            for x, y in _between(start, end):
                row, column = y // 4, x // 2
                dots[row][column] |= _DOTS[x % 2][y % 4]
                owners[row][column] = number
    return [
        [PlottedText(chr(_BLANK + bits) if bits else " ", owner) for bits, owner in zip(row, owned, strict=True)]
        for row, owned in zip(dots, owners, strict=True)
    ]


def _dot(
    point: tuple[float, float], columns: int, rows: int, x_range: tuple[float, float], y_range: tuple[float, float]
) -> tuple[int, int]:
    x = _share(point[0], x_range) * (columns - 1)
    y = (1 - _share(point[1], y_range)) * (rows - 1)
    return round(x), round(y)


def _share(value: float, limits: tuple[float, float]) -> float:
    low, high = limits
    return min(max((value - low) / ((high - low) or 1.0), 0.0), 1.0)


def _between(start: tuple[int, int], end: tuple[int, int]) -> list[tuple[int, int]]:
    """The dots of a straight line."""
    steps = max(abs(end[0] - start[0]), abs(end[1] - start[1]), 1)
    shares = [index / steps for index in range(steps + 1)]
    return [
        (round(start[0] + (end[0] - start[0]) * share), round(start[1] + (end[1] - start[1]) * share))
        for share in shares
    ]
