"""The key figures of a job: how far it is, how well, how fast, and what it survived."""

from collections.abc import Sequence

from nsai_work.job import Job
from nsai_work.lifecycle import JobStatus
from nsai_work.page.views.view import View
from nsai_work.policies import EVAL_LOSS, EVAL_REWARD
from nsai_work.presentation.progress import RunProgress
from nsai_work.presentation.quantities import duration_text
from nsai_work.store.engine.database import Tx
from nsai_work.store.queries.loss_curve import recovery_count
from nsai_work.store.queries.progress import training_progress
from nsai_work.store.records import EventRow


class Figure(View):
    """A labelled value, with the whole that it is part of (``of``). ``tone`` is the way of a resume, or empty."""

    label: str
    value: str
    of: str = ""
    tone: str = ""


def figures(
    tx: Tx, job: Job, seq: int, step: EventRow | None, log: Sequence[EventRow], total: int | None
) -> list[Figure]:
    """The figures of a job that are known. ``step`` is its newest step, ``log`` its newest other events."""
    found = _training(tx, job, step, log, total) if step is not None else _rows(log)
    if job.started_at is not None:
        seconds = ((job.completed_at or tx.now) - job.started_at).total_seconds()
        label = "took" if job.status.ended else "so far"
        found.append(Figure(label=label, value=duration_text(max(seconds, 0.0))))
    recovered, mode = recovery_count(tx, seq)
    if recovered:
        found.append(Figure(label="recovered", value=f"{recovered}, {mode}", tone=mode))
    return found


def _training(tx: Tx, job: Job, step: EventRow, log: Sequence[EventRow], total: int | None) -> list[Figure]:
    progress = training_progress(tx, job.id)
    if progress is None:
        return []
    step_figure = Figure(label="step", value=f"{progress.step:,}", of=f"{total:,}" if total else "")
    found = [step_figure, Figure(label="loss", value=f"{progress.loss:.4f}")]
    if progress.reward is not None:
        found.insert(1, Figure(label="reward", value=f"{progress.reward:.4f}"))
    evaluated = next((event for event in reversed(log) if event.name == "evaluation"), None)
    metrics = evaluated.data.get("metrics") if evaluated is not None else None
    for name in (EVAL_LOSS, EVAL_REWARD):
        value = metrics.get(name) if isinstance(metrics, dict) else None
        if isinstance(value, int | float):
            found.append(Figure(label=name, value=f"{value:.4f}"))
    if job.status is not JobStatus.RUNNING:
        return found
    speed = progress.tokens_per_s or step.data.get("tokens_per_s")
    if isinstance(speed, int | float):
        found.append(Figure(label="tokens/s", value=f"{speed:,.0f}"))
    if total and progress.steps_per_s:
        left = duration_text(max(total - progress.step, 0) / progress.steps_per_s)
        found.append(Figure(label="left", value=left))
    return found


def _rows(log: Sequence[EventRow]) -> list[Figure]:
    progress = RunProgress()
    for event in log:
        progress.update(event)
    reported = next((event for event in reversed(log) if event.name == "command.progress"), None)
    done, total = progress.done, progress.total
    if reported is not None and isinstance(reported.data.get("done"), int | float):
        done, total = _whole(reported.data.get("done")) or 0, _whole(reported.data.get("total"))
    if not done and not total:
        return []
    found = [Figure(label="done", value=f"{done:,}", of=f"{total:,}" if total else "")]
    if progress.failed_rows:
        found.append(Figure(label="failed", value=f"{progress.failed_rows:,}"))
    return found


def _whole(value: object) -> int | None:
    return round(value) if isinstance(value, int | float) else None
