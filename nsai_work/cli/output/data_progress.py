"""A progress bar on stderr while training data is read; none if stderr is not a terminal."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from crucible.rendering.plain_text import plain_line
from nsai_work.client.validation.data_check import DataProgress


@contextmanager
def data_progress() -> Iterator[DataProgress | None]:
    """Show the progress of a check of data, and remove it at the end."""
    console = Console(stderr=True, markup=False)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        tasks = {}

        def show(path: str, done: int, total: int) -> None:
            if path not in tasks:
                tasks[path] = bar.add_task(f"checking {plain_line(Path(path).name)}", total=total)
            bar.update(tasks[path], completed=done)

        yield show
