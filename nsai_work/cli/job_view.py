"""Showing a job as it runs: a bar on a terminal, plain lines elsewhere."""

from types import TracebackType
from typing import TYPE_CHECKING, Protocol, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.text import Text

from nsai_work.cli.event_text import narrate
from nsai_work.cli.plain_text import plain_text
from nsai_work.cli.progress import RunProgress

if TYPE_CHECKING:
    from nsai_work.job import Job
    from nsai_work.store import EventRow

_COUNTED = {"step": "step", "inference.progress": "rows"}
PLAIN_LINES = 20
"""About so many step lines are written of a run, however long it is."""


class JobView(Protocol):
    """Takes every event of one job, in order."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
    def see(self, event: "EventRow") -> None:
        """Show an event."""
        ...

    def say(self, text: str, style: str = "") -> None:
        """Show a line."""
        ...


def view_for(console: Console, *, total: int | None = None) -> JobView:
    """The view that suits the console; ``total`` is the number of steps where it is known."""
    progress = RunProgress(total=total)
    return BarView(console, progress) if console.is_terminal else PlainView(console, progress)


class BarView:
    """A progress bar with step, loss, speed, checkpoints and recoveries; notes scroll above it."""

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._progress = progress
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TimeElapsedColumn(),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task(progress.status, total=progress.total, facts="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def see(self, event: "EventRow") -> None:
        """Move the bar; put a line above it for what is more than a step."""
        self._progress.see(event)
        note = narrate(event)
        if note is not None:
            self.say(note.text, note.style)
        self._bar.update(
            self._task,
            description=self._progress.status,
            completed=self._progress.done,
            total=self._progress.total,
            facts=facts_line(self._progress),
        )

    def say(self, text: str, style: str = "") -> None:
        """A line above the bar."""
        self._bar.console.print(Text(plain_text(text), style=style))


class PlainView:
    """Lines that read well in a log: every note, and a step now and then."""

    def __init__(self, console: Console, progress: RunProgress) -> None:
        self._console = console
        self._progress = progress

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def see(self, event: "EventRow") -> None:
        """Write a line, if the event deserves one."""
        self._progress.see(event)
        note = narrate(event)
        if note is not None:
            self.say(note.text)
        elif event.name in _COUNTED and self._deserves_a_line():
            counted = f"{_COUNTED[event.name]} {self._progress.done}{_of(self._progress.total)}"
            self.say(f"{counted}  {facts_line(self._progress)}".rstrip())

    def say(self, text: str, style: str = "") -> None:
        """A line, flushed, so that a reader of the pipe sees it at once."""
        del style
        self._console.file.write(plain_text(text) + "\n")
        self._console.file.flush()

    def _deserves_a_line(self) -> bool:
        done, total = self._progress.done, self._progress.total
        stride = max(1, (total or PLAIN_LINES * 10) // PLAIN_LINES)
        return done == 1 or done % stride == 0 or done == total


def facts_line(progress: RunProgress) -> str:
    """Loss, speed, checkpoints, recoveries: what is known of them."""
    facts = []
    if progress.loss is not None:
        facts.append(f"loss {progress.loss:.4f}")
    if progress.tokens_per_s is not None:
        facts.append(f"{progress.tokens_per_s:,.0f} tok/s")
    if progress.checkpoints:
        facts.append(f"{progress.checkpoints} ckpt")
    if progress.failed_rows:
        facts.append(f"{progress.failed_rows} failed")
    if progress.recoveries:
        facts.append(f"{progress.recoveries} recovered")
    return "  ".join(facts)


def _of(total: int | None) -> str:
    return f"/{total}" if total else ""


def steps_wanted(job: "Job") -> int | None:
    """The optimizer steps a training job asks for, where its payload says so."""
    steps = job.payload.get("max_steps")
    return steps if isinstance(steps, int) else None
