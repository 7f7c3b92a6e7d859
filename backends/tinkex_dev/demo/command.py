"""The command: its options and its exit status. Light to import; the story is imported when it is told."""

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = Path("demo-output")


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for checkpoints, logs and the plot; made anew each time.")
    ] = OUTPUT,
    steps: Annotated[int, typer.Option(min=12, max=1000, help="Optimizer steps of the run.")] = 60,
    record: Annotated[Path | None, typer.Option(help="Also write a picture of this output (SVG) here.")] = None,
) -> None:
    """Corrupt a training run half-way, watch it recover, and compare it with one left alone.

    Needs no key and no server. The exit status is 0 only if every loss and the final weights are the same.
    """
    from backends.tinkex_dev.demo.folder import prepare_folder
    from backends.tinkex_dev.demo.screen import Screen
    from backends.tinkex_dev.demo.story import Story

    screen = Screen(recording=record is not None)
    folder = prepare_folder(output)
    equal = Story(screen, folder, steps=steps).tell()
    if record is not None:
        screen.save(record)
    if not equal:
        raise typer.Exit(1)
