"""The demo's loss plot as hand-written SVG: two curves, and the steps of corruption and resume."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from nsai_work.presentation.ticks import tick_size

WIDTH, HEIGHT = 860, 480
LEFT, RIGHT, TOP, BOTTOM = 72, 28, 84, 62
INK, GREY, GRID = "#1f2933", "#616e7c", "#e4e7eb"
PALE, STRONG, ALARM, GOOD, BAND = "#9cc9f5", "#0b5cad", "#c81e1e", "#157f3c", "#fdecec"
FONT = "system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif"


@dataclass(frozen=True, slots=True)
class LossPlot:
    """Data of the plot. Losses are those of steps 1, 2, ...; the other two are step numbers."""

    undisturbed: Sequence[float]
    recovered: Sequence[float]
    corrupted_at: int
    resumed_from: int

    @property
    def largest_difference(self) -> float:
        """The largest difference of losses over the steps that both runs have."""
        pairs = zip(self.undisturbed, self.recovered, strict=False)
        return max((abs(a - b) for a, b in pairs), default=0.0)

    def svg(self) -> str:
        """The plot as an SVG document."""
        frame = _Frame(len(self.undisturbed), max([*self.undisturbed, *self.recovered, 1e-6]))
        parts = [
            *_head(self),
            _repeated_band(frame, self.resumed_from, self.corrupted_at),
            *_axes(frame),
            _curve(frame, self.undisturbed, colour=PALE, width=9),
            _curve(frame, self.recovered, colour=STRONG, width=2),
            *_resume_arc(frame, self),
            *_legend(self),
            "</svg>",
        ]
        return "\n".join(parts) + "\n"


@dataclass(frozen=True, slots=True)
class _Frame:
    """Mapping from data to pixels."""

    steps: int
    highest: float

    @property
    def top(self) -> float:
        """The upper end of the loss axis: the tick above the highest loss."""
        size = tick_size(self.highest)
        return math.ceil(self.highest * 1.001 / size) * size

    def x(self, step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / self.steps

    def y(self, loss: float) -> float:
        return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * loss / self.top


def _head(plot: LossPlot) -> list[str]:
    equal = "A corrupted run recovers to the same losses, step for step"
    heading = equal if plot.largest_difference == 0 else "A corrupted run, and the same run undisturbed"
    size = f'width="{WIDTH}" height="{HEIGHT}" viewBox="0 0 {WIDTH} {HEIGHT}"'
    return [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img" font-family="{FONT}">',
        "<title>Loss of a training run that was corrupted and recovered, and of the same run undisturbed</title>",
        _tag("rect", width=WIDTH, height=HEIGHT, fill="#ffffff"),
        _text(LEFT, 30, heading, font_size=17, font_weight=600),
    ]


def _repeated_band(frame: _Frame, resumed_from: int, corrupted_at: int) -> str:
    left, right = frame.x(resumed_from), frame.x(corrupted_at)
    return _tag("rect", x=left, y=TOP, width=max(right - left, 1), height=HEIGHT - TOP - BOTTOM, fill=BAND)


def _axes(frame: _Frame) -> list[str]:
    bottom, middle = HEIGHT - BOTTOM, (TOP + HEIGHT - BOTTOM) / 2
    return [
        *_loss_ticks(frame),
        *_step_ticks(frame),
        _line(LEFT, bottom, WIDTH - RIGHT, bottom, stroke=GREY),
        _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 16, "optimizer step", text_anchor="middle"),
        _text(22, middle, "loss (nats per token)", text_anchor="middle", transform=f"rotate(-90 22 {middle:.0f})"),
    ]


def _loss_ticks(frame: _Frame) -> Iterator[str]:
    size = tick_size(frame.highest)
    for index in range(round(frame.top / size) + 1):
        y = frame.y(index * size)
        yield _line(LEFT, y, WIDTH - RIGHT, y, stroke=GRID)
        yield _text(LEFT - 10, y + 4, f"{index * size:g}", text_anchor="end", fill=GREY)


def _step_ticks(frame: _Frame) -> Iterator[str]:
    stride = max(1, round(tick_size(frame.steps, 8)))
    for step in range(0, frame.steps + 1, stride):
        x, bottom = frame.x(step), HEIGHT - BOTTOM
        yield _line(x, bottom, x, bottom + 5, stroke=GREY)
        yield _text(x, bottom + 20, str(step), text_anchor="middle", fill=GREY)


def _curve(frame: _Frame, losses: Sequence[float], *, colour: str, width: int) -> str:
    points = " ".join(f"{frame.x(step):.1f},{frame.y(loss):.1f}" for step, loss in enumerate(losses, start=1))
    return _tag("polyline", points=points, stroke=colour, stroke_width=width, **_OPEN)


def _resume_arc(frame: _Frame, plot: LossPlot) -> list[str]:
    """A cross at the corruption, a circle at the step resumed from, and the arc between them."""
    bad_x, good_x = frame.x(plot.corrupted_at), frame.x(plot.resumed_from)
    bad_y, good_y = (frame.y(_loss_at(plot, step)) for step in (plot.corrupted_at, plot.resumed_from))
    height = max(min(bad_y, good_y) - 64, TOP + 26)
    bend = f"{bad_x:.1f} {height:.1f}, {good_x:.1f} {height:.1f}"
    arc = f"M {bad_x:.1f} {bad_y - 11:.1f} C {bend}, {good_x:.1f} {good_y - 17:.1f}"
    tip = f"M {good_x - 5:.1f} {good_y - 18:.1f} l 10 0 l -5 8 z"
    cross = f"M {bad_x - 6:.1f} {bad_y - 6:.1f} l 12 12 m 0 -12 l -12 12"
    return [
        _tag("path", d=arc, stroke=GREY, stroke_width=1.5, stroke_dasharray="4 3", fill="none"),
        _tag("path", d=tip, fill=GREY),
        _tag("path", d=cross, stroke=ALARM, stroke_width=3, **_OPEN),
        _tag("circle", cx=good_x, cy=good_y, r=6, fill="#ffffff", stroke=GOOD, stroke_width=3),
        _text(bad_x + 8, TOP + 18, f"corrupted after step {plot.corrupted_at}", fill=ALARM),
        _text(good_x - 8, TOP + 18, f"resumed from step {plot.resumed_from}", fill=GOOD, text_anchor="end"),
    ]


def _loss_at(plot: LossPlot, step: int) -> float:
    return plot.recovered[min(max(step, 1), len(plot.recovered)) - 1]


def _legend(plot: LossPlot) -> list[str]:
    y = 56
    difference = f"largest difference: {plot.largest_difference:g}"
    return [
        _line(LEFT, y - 4, LEFT + 28, y - 4, stroke=PALE, stroke_width=9),
        _text(LEFT + 38, y, "undisturbed"),
        _line(LEFT + 128, y - 4, LEFT + 156, y - 4, stroke=STRONG, stroke_width=2),
        _text(LEFT + 166, y, "corrupted and recovered"),
        _tag("rect", x=LEFT + 352, y=y - 12, width=28, height=15, fill=BAND, stroke=ALARM, stroke_opacity=0.25),
        _text(LEFT + 390, y, "steps that ran twice"),
        _text(WIDTH - RIGHT, y, difference, text_anchor="end", font_weight=600),
    ]


_OPEN: Final = {"fill": "none", "stroke_linejoin": "round", "stroke_linecap": "round"}


def _line(x1: float, y1: float, x2: float, y2: float, *, stroke: str, stroke_width: int = 1) -> str:
    return _tag("line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=stroke, stroke_width=stroke_width)


def _text(x: float, y: float, text: str, **style: str | float) -> str:
    return _tag("text", text, **{"x": x, "y": y, "font_size": 13, "fill": INK, **style})


def _tag(name: str, content: str = "", **attributes: str | float) -> str:
    """An SVG element; ``stroke_width`` becomes ``stroke-width``, and pixels get one decimal."""
    shown = {key.replace("_", "-"): _value(value) for key, value in attributes.items()}
    head = " ".join([name, *(f'{key}="{value}"' for key, value in shown.items())])
    return f"<{head}>{escape(content)}</{name}>" if content else f"<{head}/>"


def _value(value: str | float) -> str:
    return (
        escape(value)
        if isinstance(value, str)
        else f"{value:.4g}"
        if abs(value) < 1
        else f"{value:.1f}".removesuffix(".0")
    )
