"""A progress bar on stderr while a checkpoint is downloaded; none if stderr is not a terminal."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from crucible.backend import no_report
from crucible.rendering.plain_text import plain_line


@contextmanager
def download_progress(name: str) -> Iterator[Callable[[int, int | None], None]]:
    """Show the progress of a download, and remove it at the end."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield no_report
        return
    text = TextColumn("{task.description}", markup=False)
    columns = (text, BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(f"downloading {plain_line(name)}", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
