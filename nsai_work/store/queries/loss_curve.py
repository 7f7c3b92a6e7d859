"""The loss curve of a training job over all its remote runs, reduced in the query to a number of points."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, func, select

from nsai_work.store.engine.database import Tx
from nsai_work.store.schema import NO_STEP, checkpoints, evaluations, events, runs, steps

MAX_MARKS: Final = 300
"""The number of evaluations, checkpoints and recoveries that a curve shows of each."""

_TAKEN_OVER: Final = "resume.warm"

_FINITE: Final = steps.c.loss.between(-1e300, 1e300)
"""Leaves out NaN, which SQLite stores as NULL and PostgreSQL sorts above all numbers."""


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """A step, or several neighbours: ``loss`` is their mean in nats per token, ``low`` and ``high`` are the
    extremes, and ``step`` is the last of them."""

    step: int
    loss: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class CurveMark:
    """An evaluation (``value`` is its loss) or a stored checkpoint (``value`` is None) after ``step`` steps."""

    step: int
    name: str
    value: float | None


@dataclass(frozen=True, slots=True)
class RecoveryMark:
    """A recovery after ``step`` steps: how the state came back, the step that it continued from, the number of
    steps that run again, and the seconds between the last step before and the first one after it (None until then).
    ``reason`` is why the previous remote run ended."""

    step: int
    mode: str
    from_step: int
    repeated: int
    pause_s: float | None
    reason: str | None


@dataclass(frozen=True, slots=True)
class LossCurve:
    """The curve of a job. A point stands for up to ``width`` steps. ``superseded`` are the steps that a restore
    made void, by their generation."""

    width: int = 1
    points: list[CurvePoint] = field(default_factory=list)
    superseded: dict[int, list[CurvePoint]] = field(default_factory=dict)
    evaluations: list[CurveMark] = field(default_factory=list)
    checkpoints: list[CurveMark] = field(default_factory=list)
    recoveries: list[RecoveryMark] = field(default_factory=list)


def loss_curve(tx: Tx, seq: int, *, max_points: int, metric: str) -> LossCurve:
    """The curve of a job, of at most about ``max_points`` points. ``metric`` names the loss of an evaluation."""
    last = tx.connection.execute(select(func.max(steps.c.step)).where(steps.c.job_seq == seq)).scalar() or 0
    width = max(1, -(-last // max_points))
    points: list[CurvePoint] = []
    superseded: dict[int, list[CurvePoint]] = {}
    for row in _points(tx, seq, width):
        line = superseded.setdefault(row.generation, []) if row.is_superseded else points
        line.append(_point(row))
    return LossCurve(
        width,
        points,
        superseded,
        _evaluations(tx, seq, metric),
        _checkpoints(tx, seq),
        recoveries(tx, seq),
    )


def last_step(tx: Tx, seq: int) -> int:
    """The newest step that is not superseded; 0 before the first."""
    current = (steps.c.job_seq == seq) & steps.c.superseded_by.is_(None)
    return tx.connection.execute(select(func.max(steps.c.step)).where(current)).scalar() or 0


def points_after(tx: Tx, seq: int, step: int, *, limit: int) -> list[CurvePoint]:
    """The points of the steps after ``step`` that are not superseded, each of a single step."""
    new = (steps.c.job_seq == seq) & (steps.c.step > step) & steps.c.superseded_by.is_(None) & _FINITE
    columns = (steps.c.step, steps.c.loss, steps.c.loss.label("low"), steps.c.loss.label("high"))
    rows = tx.connection.execute(select(*columns).where(new).order_by(steps.c.step).limit(limit))
    return [_point(row) for row in rows]


def _points(tx: Tx, seq: int, width: int) -> Sequence[Any]:
    is_superseded = steps.c.superseded_by.is_not(None).label("is_superseded")
    statement = (
        select(
            steps.c.generation,
            is_superseded,
            func.max(steps.c.step).label("step"),
            func.avg(steps.c.loss).label("loss"),
            func.min(steps.c.loss).label("low"),
            func.max(steps.c.loss).label("high"),
        )
        .where(steps.c.job_seq == seq, _FINITE)
        .group_by(steps.c.generation, is_superseded, (steps.c.step - 1) // width)
        .order_by("step", steps.c.generation)
    )
    return tx.connection.execute(statement).all()


def _point(row: Any) -> CurvePoint:
    return CurvePoint(row.step, row.loss, row.low, row.high)


def _evaluations(tx: Tx, seq: int, metric: str) -> list[CurveMark]:
    current = (evaluations.c.job_seq == seq) & evaluations.c.superseded_by.is_(None)
    found = []
    for row in _evenly(tx, select(evaluations.c.step, evaluations.c.metrics).where(current), evaluations.c.step):
        value = row.metrics.get(metric) if isinstance(row.metrics, dict) else None
        if isinstance(value, int | float):
            found.append(CurveMark(row.step, metric, float(value)))
    return found


def _checkpoints(tx: Tx, seq: int) -> list[CurveMark]:
    stored = (checkpoints.c.job_seq == seq) & (checkpoints.c.status == "committed")
    chosen = select(checkpoints.c.step, checkpoints.c.name).where(stored)
    return [CurveMark(row.step, row.name, None) for row in _evenly(tx, chosen, checkpoints.c.step)]


def _evenly(tx: Tx, statement: Select[Any], step: ColumnElement[int]) -> Sequence[Any]:
    """The rows of a statement in order of their steps; of many, ``MAX_MARKS`` at even distances and the last."""
    number = tx.connection.execute(select(func.count()).select_from(statement.subquery())).scalar() or 0
    stride = -(-number // MAX_MARKS)
    if stride > 1:
        numbered = statement.add_columns(func.row_number().over(order_by=step.desc()).label("place")).subquery()
        columns = [column for column in numbered.c if column.name != "place"]
        statement = select(*columns).where(numbered.c.place % stride == 1)
        step = numbered.c.step
    return tx.connection.execute(statement.order_by(step)).all()


def recovery_count(tx: Tx, seq: int) -> tuple[int, str]:
    """The number of recoveries of a job, and the mode of the newest one; empty without any."""
    own = (events.c.job_seq == seq) & NO_STEP & (events.c.name == _TAKEN_OVER)
    taken = tx.connection.execute(select(func.count(), func.max(events.c.at)).where(own)).one()
    newest = select(runs.c.generation, runs.c.resume, runs.c.started_at).where(runs.c.job_seq == seq)
    run = tx.connection.execute(newest.order_by(runs.c.generation.desc()).limit(1)).first()
    restored = 0 if run is None else run.generation - 1
    is_warm = taken[1] is not None and (run is None or not restored or taken[1] > run.started_at)
    mode = "warm" if is_warm else run.resume if run is not None and restored else ""
    return taken[0] + restored, mode


def recoveries(tx: Tx, seq: int) -> list[RecoveryMark]:
    """The newest recoveries of a job, in order: restores into new remote runs, and takeovers of live ones."""
    found = [(generation, mark) for generation, mark in _restores(tx, seq)] + _takeovers(tx, seq)
    found.sort(key=lambda pair: (pair[0], pair[1].step))
    return [mark for _, mark in found[-MAX_MARKS:]]


def _restores(tx: Tx, seq: int) -> list[tuple[int, RecoveryMark]]:
    statement = select(runs).where(runs.c.job_seq == seq).order_by(runs.c.generation.desc()).limit(MAX_MARKS + 1)
    rows = tx.connection.execute(statement).all()
    found = []
    for row, previous in pairwise(rows):
        repeated = row.lost_steps or 0
        step = row.from_step + repeated
        pause_s = _pause_s(tx, seq, step, row.from_step + 1, row.generation)
        reason = row.restart_reason or previous.end_reason
        found.append(
            (row.generation, RecoveryMark(step, row.resume, row.from_step, repeated, pause_s, reason)),
        )
    return found


def _takeovers(tx: Tx, seq: int) -> list[tuple[int, RecoveryMark]]:
    named = select(events.c.data).where(events.c.job_seq == seq, NO_STEP, events.c.name == _TAKEN_OVER)
    rows = tx.connection.execute(named.order_by(events.c.seq.desc()).limit(MAX_MARKS))
    found = []
    for row in rows:
        data = row.data if isinstance(row.data, dict) else {}
        step, generation = data.get("step"), data.get("generation")
        if isinstance(step, int) and isinstance(generation, int):
            pause_s = _pause_s(tx, seq, step, step + 1, None)
            found.append((generation, RecoveryMark(step, "warm", step, 0, pause_s, None)))
    return found


def _pause_s(tx: Tx, seq: int, before: int, after: int, generation: int | None) -> float | None:
    """The seconds between the last step before a recovery and the first one after it, of this generation."""
    times = select(steps.c.recorded_at).where(steps.c.job_seq == seq)
    earlier, later = times.where(steps.c.step == before), times.where(steps.c.step == after)
    if generation is not None:
        earlier, later = (
            earlier.where(steps.c.generation < generation),
            later.where(steps.c.generation == generation),
        )
    newest_first = steps.c.generation.desc()
    began = tx.connection.execute(earlier.order_by(newest_first).limit(1)).scalar()
    ended = tx.connection.execute(later.order_by(newest_first).limit(1)).scalar()
    return None if began is None or ended is None else max((ended - began).total_seconds(), 0.0)


def sampled_losses(tx: Tx, seq: int, last: int, *, count: int) -> list[float]:
    """The losses of up to ``count`` steps at even distances, up to step ``last``."""
    chosen = sorted({max(1, round(last * (index + 1) / count)) for index in range(count)})
    current = (steps.c.job_seq == seq) & steps.c.step.in_(chosen) & steps.c.superseded_by.is_(None) & _FINITE
    return list(tx.connection.execute(select(steps.c.loss).where(current).order_by(steps.c.step)).scalars())
