"""Live views of a running job: a progress bar on a terminal, plain lines elsewhere."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Column
from rich.text import Text

from crucible.rendering.plain_text import plain_line, plain_text
from nsai_work.cli.output.stdout import shortened_to
from nsai_work.identifiers import short_id
from nsai_work.presentation.event_text import describe_event
from nsai_work.presentation.progress import RunProgress, requested_steps

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import EventRow

_UNITS = {"step": "step", "inference.progress": "rows"}
"""Events that count progress, with the unit they count."""

MAX_WAIT = 70
"""The number of characters of a wait reason that a bar shows."""

WAITS = ("job.waiting", "wait.started")
"""The events of waits, which a view may have shown already."""

PLAIN_LINES = 20
"""Approximate number of progress lines that a plain view writes for a run of any length."""

MAX_SILENCE = timedelta(seconds=30)
"""The time after which a plain view writes a progress line in any case: the steps of a large model take long."""


class JobView(ABC):
    """Shows a job in a ``with`` block. Receives all its events in order."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        """Stop showing the job."""

    @abstractmethod
    def show(self, event: "EventRow") -> None:
        """Show an event."""

    def catch_up(self, event: "EventRow") -> None:
        """Count an event of the past, without a line of its own."""
        self.show(event)

    def show_wait(self, reason: str | None) -> None:
        """Show why the job waits now; None if it does not."""

    @abstractmethod
    def write_line(self, text: str, style: str = "") -> None:
        """Show a line of text."""


def view_for(console: Console, *, total: int | None = None) -> JobView:
    """Return a bar for a terminal, else a plain view. ``total`` is the number of steps, if known."""
    progress = RunProgress(total=total)
    return BarView(console, progress) if console.is_terminal else PlainView(console, progress)


def view_of_jobs(console: Console, jobs: "Sequence[Job]") -> JobView:
    """Return the view of a single job, or a plain view of several, whose lines begin with the name of a job."""
    if len(jobs) == 1:
        return view_for(console, total=requested_steps(jobs[0]))
    return ManyJobsView(console, jobs)


class BarView(JobView):
    """Progress bar with step, loss, speed, checkpoints and recoveries; other events scroll above it."""

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._progress = progress
        self._bar = Progress(
            SpinnerColumn(),
            _CutColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(table_column=Column(no_wrap=True)),
            _CutColumn("{task.fields[metrics]}"),
            TimeElapsedColumn(table_column=Column(no_wrap=True)),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task(progress.status, total=progress.total, metrics="")
        self._wait: str | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._bar.stop()

    def catch_up(self, event: "EventRow") -> None:
        """Count an event; the next one that is shown updates the bar."""
        self._progress.update(event)

    def show(self, event: "EventRow") -> None:
        """Update the bar, and write the line of the event above it."""
        self._progress.update(event)
        line = describe_event(event)
        if line is not None:
            self.write_line(line.text, line.style)
        self._update_bar()

    def show_wait(self, reason: str | None) -> None:
        """Show the reason beside the status."""
        self._wait = None if reason is None else shortened_to(plain_line(reason), MAX_WAIT)
        self._update_bar()

    def _update_bar(self) -> None:
        status = self._progress.status
        self._bar.update(
            self._task,
            description=status if self._wait is None else escape(f"{status}: {self._wait}"),
            completed=self._progress.done,
            total=self._progress.total,
            metrics=metrics_text(self._progress),
        )

    def write_line(self, text: str, style: str = "") -> None:
        """Write a line above the bar."""
        self._bar.console.print(Text(plain_text(text), style=style))


class _CutColumn(TextColumn):
    """A text that is cut where a terminal is narrow, before the numbers beside it are."""

    def __init__(self, text_format: str) -> None:
        super().__init__(text_format, table_column=Column(no_wrap=False))

    def render(self, task: Task) -> Text:
        text = super().render(task)
        text.no_wrap, text.overflow = True, "ellipsis"
        return text


class PlainView(JobView):
    """Plain lines for logs: each event that has a text, and of progress about ``PLAIN_LINES`` lines, or one every
    ``MAX_SILENCE`` if that is more."""

    def __init__(self, console: Console, progress: RunProgress, prefix: str = "") -> None:
        self._console = console
        self._progress = progress
        self._prefix = prefix
        self._wait: str | None = None
        self._shown_at: datetime | None = None
        self._shown_count: tuple[int, int | None] | None = None

    def catch_up(self, event: "EventRow") -> None:
        """Count an event."""
        self._progress.update(event)

    def show(self, event: "EventRow") -> None:
        """Write a line for the event, if it has one."""
        self._progress.update(event)
        line = describe_event(event)
        if line is not None:
            if event.name not in WAITS or line.text != self._wait:
                self.write_line(line.text)
            # what goes on in between makes the same reason news again
            self._wait = line.text if event.name in WAITS else None
        elif event.name in _UNITS and self._progress_line_is_due(event.at):
            self._shown_at, self._shown_count = event.at, (self._progress.done, self._progress.total)
            count = f"{_UNITS[event.name]} {self._progress.done}{_of(self._progress.total)}"
            self.write_line(f"{count}  {metrics_text(self._progress)}".rstrip())

    def show_wait(self, reason: str | None) -> None:
        """Write a line with the reason, unless an event that was shown has said it: not every wait is an event."""
        line = f"waiting: {reason}"
        if reason is not None and line != self._wait:
            self._wait = line
            self.write_line(line)

    def write_line(self, text: str, style: str = "") -> None:
        """Write a line and flush it, so that a pipe receives it immediately."""
        del style
        self._console.file.write(plain_text(self._prefix + text) + "\n")
        self._console.file.flush()

    def _progress_line_is_due(self, now: datetime) -> bool:
        done, total = self._progress.done, self._progress.total
        if self._shown_at is None or now - self._shown_at >= MAX_SILENCE:
            return True
        if (done, total) == self._shown_count:
            return False
        stride = max(1, (total or PLAIN_LINES * 10) // PLAIN_LINES)
        return done == 1 or done % stride == 0 or done == total


class ManyJobsView(JobView):
    """A plain view of each of several jobs. Each line of a job begins with its name, or with the end of its ID."""

    def __init__(self, console: Console, jobs: "Sequence[Job]") -> None:
        self._common = PlainView(console, RunProgress())
        self._views = {
            job.id: PlainView(console, RunProgress(total=requested_steps(job)), f"{job.name or short_id(job.id)}: ")
            for job in jobs
        }

    def show(self, event: "EventRow") -> None:
        """Show an event of one of the jobs."""
        self._views[event.job_id].show(event)

    def write_line(self, text: str, style: str = "") -> None:
        """Write a line about all jobs."""
        self._common.write_line(text, style)


def metrics_text(progress: RunProgress) -> str:
    """Format reward, loss, speed, checkpoints, failed rows and recoveries, as far as they are known."""
    metrics = []
    if progress.reward is not None:
        metrics.append(f"reward {progress.reward:.4f}")
    if progress.loss is not None:
        metrics.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_s is not None:
        metrics.append(f"{progress.tokens_per_s:,.0f} tok/s")
    if progress.checkpoints:
        metrics.append(f"{progress.checkpoints} ckpt")
    if progress.failed_rows:
        metrics.append(f"{progress.failed_rows} failed")
    if progress.recoveries:
        metrics.append(f"{progress.recoveries} recovered")
    return "  ".join(metrics)


def _of(total: int | None) -> str:
    return f"/{total}" if total else ""
