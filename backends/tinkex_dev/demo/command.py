"""The command's options and exit status. It imports the rest of the demo only when it runs."""

from pathlib import Path
from typing import Annotated

import typer

OUTPUT = Path("demo-output")


def demo(
    output: Annotated[
        Path, typer.Option(help="Folder for checkpoints, logs and the plot; recreated by each run.")
    ] = OUTPUT,
    steps: Annotated[int, typer.Option(min=12, max=1000, help="Optimizer steps of the run.")] = 60,
    record: Annotated[Path | None, typer.Option(help="Also save this output as an SVG image.")] = None,
) -> None:
    """Corrupt a training run half-way, watch it recover, and compare it with an undisturbed run.

    Needs no key and no server. The exit status is 0 only if all losses and the final weights are equal.
    """
    from backends.tinkex_dev.demo.folder import prepare_folder
    from backends.tinkex_dev.demo.screen import Screen
    from backends.tinkex_dev.demo.story import Story
    from nsai_work.files.user_paths import expanded, refuse_odd_target

    if record is not None:
        record = expanded(str(record))
        refuse_odd_target("--record", record)
    screen = Screen(recording=record is not None)
    folder = prepare_folder(expanded(str(output)))
    equal = Story(screen, folder, steps=steps).run()
    if record is not None:
        screen.save(record)
    if not equal:
        raise typer.Exit(1)
