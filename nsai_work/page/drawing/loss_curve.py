"""Loss curves as paths: the steps that count, the superseded ones behind them, and what happened on the way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from nsai_work.page.drawing.axes import Axis, Tick, loss_range
from nsai_work.page.views.curve_data import CurveData

WIDTH: Final = 1040
HEIGHT: Final = 320
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 30, 14, 28
MAX_LABELS: Final = 6
"""The number of recoveries that have a text, the newest."""

MAX_SYMBOLS: Final = 40
"""The number of evaluations up to which each has a symbol; more of them are a line."""


@dataclass(frozen=True, slots=True)
class DrawnMark:
    """An evaluation or a checkpoint, in pixels."""

    x: float
    y: float
    title: str


@dataclass(frozen=True, slots=True)
class DrawnRecovery:
    """A vertical line with a text beside it, which ends (``anchor``) or begins there. Without a text there is the
    title alone."""

    x: float
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
    """A drawing of curves over a common pair of axes."""

    x_ticks: list[Tick]
    y_ticks: list[Tick]
    lines: list[DrawnLine]
    evaluations: list[DrawnMark]
    checkpoints: list[DrawnMark]
    recoveries: list[DrawnRecovery]
    newest: DrawnMark | None
    evaluation_path: str = ""
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
    checkpoints = [
        DrawnMark(x.at(step), y.at(_near(losses, data, step)), f"checkpoint {name}")
        for step, name in zip(data.checkpoints.steps, data.checkpoints.names, strict=True)
    ]
    newest = None
    if data.steps:
        step, loss = data.steps[-1], data.loss[-1]
        newest = DrawnMark(x.at(step), y.at(loss), f"{step:,} · {loss:.4f}")
    recoveries = _recoveries(data, x)
    lines, path = [_line(data, x, y)], ""
    if len(evaluations) > MAX_SYMBOLS:
        evaluations, path = [], _path(data.evaluations.steps, data.evaluations.values, x, y)
    return CurveDrawing(
        x.ticks(10, whole=True), y.ticks(5), lines, evaluations, checkpoints, recoveries, newest, path
    )


def draw_curves(curves: Sequence[tuple[str, CurveData]]) -> CurveDrawing:
    """The drawing of several jobs' curves, without marks."""
    x, y = _axes([data for _, data in curves])
    lines = [DrawnLine(_path(data.steps, data.loss, x, y), label=label) for label, data in curves]
    return CurveDrawing(x.ticks(10, whole=True), y.ticks(5), lines, [], [], [], None)


def _axes(curves: Sequence[CurveData]) -> tuple[Axis, Axis]:
    last = max([1, *(data.total or 0 for data in curves), *(data.steps[-1] for data in curves if data.steps)])
    values = [value for data in curves for value in (*data.low, *data.high, *data.evaluations.values)]
    low, high = loss_range(values)
    return Axis(0, last, _LEFT, WIDTH - _RIGHT), Axis(low, high, HEIGHT - _BOTTOM, _TOP)


def _line(data: CurveData, x: Axis, y: Axis) -> DrawnLine:
    ghosts = [_path(ghost.steps, ghost.loss, x, y) for ghost in data.ghosts]
    if data.width == 1:
        return DrawnLine(_path(data.steps, data.loss, x, y), ghosts=ghosts)
    there = [f"{x.at(step)},{y.at(high)}" for step, high in zip(data.steps, data.high, strict=True)]
    back = [f"{x.at(step)},{y.at(low)}" for step, low in zip(data.steps, data.low, strict=True)][::-1]
    band = "M" + " L".join([*there, *back]) + "Z" if there else ""
    return DrawnLine(_path(data.steps, data.loss, x, y), band, ghosts)


def _path(steps: Sequence[int], losses: Sequence[float], x: Axis, y: Axis) -> str:
    points = [f"{x.at(step)},{y.at(loss)}" for step, loss in zip(steps, losses, strict=True)]
    if len(points) == 1:
        # a path of one point has no length, and round caps show it
        points *= 2
    return "M" + " L".join(points) if points else ""


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
        drawn.append(
            DrawnRecovery(
                at, at - 6 if ends else at + 6, text_y, "end" if ends else "start", mark.mode, text, mark.title
            )
        )
    return drawn
