"""Loss curves as paths: the steps that count, the superseded ones behind them, and what happened on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nsai_work.page.drawing.axes import Axis, Tick
from nsai_work.page.views.parts.curve_data import CurveData

WIDTH: Final = 1040
HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 30, 14, 28
MAX_LABELS: Final = 6
"""The number of recoveries that have a text, the newest."""

MAX_SYMBOLS: Final = 40
"""The number of evaluations up to which each has a symbol; more of them are a line. More checkpoints are ticks
below the curve."""


@dataclass(frozen=True, slots=True)
class DrawnMark:
    """An evaluation or a checkpoint, in pixels."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class DrawnRecovery:
    """A vertical line with a text beside it, which ends (``anchor``) or begins there. Without a text there is the
    title alone. The steps from ``since_x`` on were run again."""

    x: float
    since_x: float
    text_x: float
    text_y: float
    anchor: str
    mode: str
    text: str
    title: str


@dataclass(frozen=True, slots=True)
class DrawnLine:
    """A curve: the line of the means, the band of the extremes, and the ghosts of superseded steps."""

    path: str
    band: str = ""
    ghosts: list[str] = field(default_factory=list)
    label: str = ""


@dataclass(frozen=True, slots=True)
class CurveDrawing:
    """A drawing of curves over a common pair of axes. ``fall`` is the place for a text on what is above them."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[DrawnLine]
    evaluations: list[DrawnMark]
    checkpoints: list[DrawnMark]
    recoveries: list[DrawnRecovery]
    newest: DrawnMark | None
    evaluation_path: str = ""
    checkpoint_path: str = ""
    fall: DrawnMark | None = None
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    right: int = WIDTH - _RIGHT
    top: int = _TOP
    bottom: int = HEIGHT - _BOTTOM


def draw_curve(data: CurveData) -> CurveDrawing:
    """The drawing of one job's curve, with all its marks."""
    x, y = _axes([data])
    losses = dict(zip(data.steps, data.loss, strict=True))
    evaluations = [
        DrawnMark(x.at(step), y.at(value), f"evaluation at step {step}: {value:.4f}")
        for step, value in zip(data.evaluations.steps, data.evaluations.values, strict=True)
    ]
    checkpoints, saved = [], ""
    if len(data.checkpoints.steps) > MAX_SYMBOLS:
        saved = " ".join(f"M{x.at(step)},{y.start}v-6" for step in data.checkpoints.steps)
    else:
        checkpoints = [
            DrawnMark(x.at(step), y.at(min(_near(losses, data, step), y.high)), f"checkpoint {name}")
            for step, name in zip(data.checkpoints.steps, data.checkpoints.names, strict=True)
        ]
    newest = None
    if data.steps:
        step, loss = data.steps[-1], data.loss[-1]
        newest = DrawnMark(x.at(step), y.at(min(loss, y.high)), f"{step:,} · {loss:.4f}")
    recoveries = _recoveries(data, x)
    lines, path = [_line(data, x, y)], ""
    if len(evaluations) > MAX_SYMBOLS:
        evaluations, path = [], _path(data.evaluations.steps, data.evaluations.values, x, y)
    y_ticks = y.ticks(5) if data.steps or data.evaluations.steps else []
    x_ticks = x.ticks(10, whole=True)
    fall = _fall([data], x, y)
    return CurveDrawing(x_ticks, y_ticks, lines, evaluations, checkpoints, recoveries, newest, path, saved, fall)


def draw_curves(curves: Sequence[tuple[str, CurveData]]) -> CurveDrawing:
    """The drawing of several jobs' curves, without marks."""
    x, y = _axes([data for _, data in curves])
    lines = [DrawnLine(_path(data.steps, data.loss, x, y), label=label) for label, data in curves]
    fall = _fall([data for _, data in curves], x, y)
    return CurveDrawing(x.ticks(10, whole=True), y.ticks(5), lines, [], [], [], None, fall=fall)


def _axes(curves: Sequence[CurveData]) -> tuple[Axis, Axis]:
    last = max([1, *(data.total or 0 for data in curves), *(data.steps[-1] for data in curves if data.steps)])
    ranges = [data.range for data in curves if data.steps or data.evaluations.steps] or [(0.0, 1.0)]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    return Axis(0, last, _LEFT, WIDTH - _RIGHT), Axis(low, high, HEIGHT - _BOTTOM, _TOP)


def _line(data: CurveData, x: Axis, y: Axis) -> DrawnLine:
    ghosts = [_path(ghost.steps, ghost.loss, x, y) for ghost in data.ghosts]
    if data.width == 1:
        return DrawnLine(_path(data.steps, data.loss, x, y), ghosts=ghosts)
    there = [f"{x.at(step)},{y.at(min(high, y.high))}" for step, high in zip(data.steps, data.high, strict=True)]
    back = [f"{x.at(step)},{y.at(min(low, y.high))}" for step, low in zip(data.steps, data.low, strict=True)][::-1]
    band = "M" + " L".join([*there, *back]) + "Z" if there else ""
    return DrawnLine(_path(data.steps, data.loss, x, y), band, ghosts)


def _path(steps: Sequence[int], losses: Sequence[float], x: Axis, y: Axis) -> str:
    points = [f"{x.at(step)},{y.at(loss)}" for step, loss in zip(steps, losses, strict=True) if not loss > y.high]
    if len(points) == 1:
        # a path of one point has no length, and round caps show it
        points *= 2
    return "M" + " L".join(points) if points else ""


def _fall(curves: Sequence[CurveData], x: Axis, y: Axis) -> DrawnMark | None:
    """The place and the text for what is above the axis: the first fall of a long curve."""
    above = max((value for data in curves for value in data.high if value > y.high), default=None)
    return None if above is None else DrawnMark(x.start + 12, _TOP + 57, f"falls from {above:.4g} at first")


def _near(losses: dict[int, float], data: CurveData, step: int) -> float:
    """The loss at a step, or at the point that stands for it."""
    if step in losses:
        return losses[step]
    later = next((loss for at, loss in zip(data.steps, data.loss, strict=True) if at >= step), None)
    return later if later is not None else data.loss[-1] if data.loss else 0.0


def _recoveries(data: CurveData, x: Axis) -> list[DrawnRecovery]:
    drawn = []
    labelled = len(data.recoveries) - MAX_LABELS
    for index, mark in enumerate(data.recoveries):
        at = x.at(mark.step)
        # a text that would leave the drawing ends at its line
        ends = at > WIDTH * 0.66
        text_y = _TOP + 12 + 15 * (index % 3)
        text = mark.text if index >= labelled else ""
        near, anchor = (at - 6, "end") if ends else (at + 6, "start")
        since = x.at(mark.since)
        drawn.append(DrawnRecovery(at, since, near, text_y, anchor, mark.mode, text, mark.title))
    return drawn
