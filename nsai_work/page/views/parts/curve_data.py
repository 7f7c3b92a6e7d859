"""The data of a drawn loss curve, in columns: for the server's drawing and for the one in the browser."""

from typing import Final

from pydantic import Field, computed_field

from nsai_work.page.drawing.axes import curve_range
from nsai_work.page.views.view import View
from nsai_work.policies import EVAL_LOSS
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.loss_curve import CurvePoint, LossCurve, RecoveryMark, loss_curve

MAX_POINTS: Final = 800


class GhostLine(View):
    """The superseded steps of a generation."""

    generation: int
    steps: list[int]
    loss: list[float]


class EvaluationMarks(View):
    """Evaluations: after how many steps, and their losses."""

    steps: list[int] = Field(default_factory=list)
    values: list[float] = Field(default_factory=list)


class CheckpointMarks(View):
    """Stored checkpoints: after how many steps, and their names."""

    steps: list[int] = Field(default_factory=list)
    names: list[str] = Field(default_factory=list)


class RecoveryLine(View):
    """A recovery after ``step`` steps: ``mode`` is warm, exact, unverified, cold or restarted. The steps after
    ``since`` were run again."""

    step: int
    since: int
    mode: str
    text: str
    title: str


class CurveData(View):
    """A curve. Each point stands for up to ``width`` steps: their mean loss, and the extremes. ``total`` is the
    number of steps that the job will have, if known."""

    width: int = 1
    total: int | None = None
    steps: list[int] = Field(default_factory=list)
    loss: list[float] = Field(default_factory=list)
    low: list[float] = Field(default_factory=list)
    high: list[float] = Field(default_factory=list)
    ghosts: list[GhostLine] = Field(default_factory=list)
    evaluations: EvaluationMarks = EvaluationMarks()
    checkpoints: CheckpointMarks = CheckpointMarks()
    recoveries: list[RecoveryLine] = Field(default_factory=list)

    @computed_field  # type: ignore[prop-decorator]
    @property
    def range(self) -> tuple[float, float]:
        """The range of the axis of losses. The first fall of a long curve may begin above it."""
        return curve_range(self.steps, self.low, self.high, self.evaluations.values)


def read_curve(tx: Tx, seq: int, *, total: int | None, max_points: int = MAX_POINTS) -> CurveData:
    """The curve of a job."""
    return _data(loss_curve(tx, seq, max_points=max_points, metric=EVAL_LOSS), total)


def points_json(points: list[CurvePoint]) -> dict[str, list[float]]:
    """New points of a curve, in columns."""
    return {"steps": [point.step for point in points], "loss": [point.loss for point in points]}


def _data(curve: LossCurve, total: int | None) -> CurveData:
    points = curve.points
    return CurveData(
        width=curve.width,
        total=total,
        steps=[point.step for point in points],
        loss=[point.loss for point in points],
        low=[point.low for point in points],
        high=[point.high for point in points],
        ghosts=[
            GhostLine(
                generation=generation, steps=[point.step for point in ghost], loss=[point.loss for point in ghost]
            )
            for generation, ghost in sorted(curve.superseded.items())
        ],
        evaluations=EvaluationMarks(
            steps=[mark.step for mark in curve.evaluations],
            values=[mark.value for mark in curve.evaluations if mark.value is not None],
        ),
        checkpoints=CheckpointMarks(
            steps=[mark.step for mark in curve.checkpoints], names=[mark.name for mark in curve.checkpoints]
        ),
        recoveries=[recovery_line(mark) for mark in curve.recoveries],
    )


def recovery_line(mark: RecoveryMark) -> RecoveryLine:
    """The text of a recovery, short for the drawing and whole for its title."""
    pause = "" if mark.pause_s is None else f", {mark.pause_s:.1f} s"
    if mark.mode == "warm":
        text = f"warm, 0 steps{pause}"
    elif mark.mode == "restarted":
        text = f"restarted, {mark.repeated} steps lost{pause}"
    else:
        text = f"{mark.mode} from step {mark.from_step}, {mark.repeated} again{pause}"
    reason = "" if mark.reason is None else f": {mark.reason}"
    since = min(mark.from_step, mark.step)
    title = f"after step {mark.step}, {text}{reason}"
    return RecoveryLine(step=mark.step, since=since, mode=mark.mode, text=text, title=title)
