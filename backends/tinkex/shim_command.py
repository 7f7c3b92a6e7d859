"""The command ``nsai-work shim``: a program of the Tinker SDK, unchanged, on this client.

A folder that holds a package ``tinker`` is put in front of ``PYTHONPATH``. Nothing is installed; the children of
the program inherit it, and a real ``tinker`` may stay installed.
"""

import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, Final

import typer

SHIM_PATH: Final = Path(__file__).with_name("shim_path")
_NOT_FOUND: Final = 2
_SIGNALED: Final = 128


def shim(
    command: Annotated[list[str], typer.Argument(help="The program and its arguments, after --.")],
    restarts: Annotated[
        int, typer.Option(min=0, help="Start the program again when it fails, at most this many times.")
    ] = 0,
) -> None:
    """Run a program that is written for the Tinker SDK on this client, unchanged."""
    raise typer.Exit(run_program(command, restarts))


def run_program(command: Sequence[str], restarts: int) -> int:
    """Run a program, and again while it fails and ``restarts`` are left; return its exit code.

    A program that was ended by a signal to this process is not started again.
    """
    stopped: list[int] = []
    running: list[subprocess.Popen[bytes]] = []
    missed: list[int] = []

    def forward(number: int, _: FrameType | None) -> None:
        stopped.append(number)
        if not running:
            missed.append(number)
        for process in running:
            process.send_signal(number)

    earlier = {number: signal.signal(number, forward) for number in (signal.SIGTERM, signal.SIGHUP)}
    # a terminal sends Ctrl-C to the program too, which decides what it does
    earlier[signal.SIGINT] = signal.signal(signal.SIGINT, lambda number, _: stopped.append(number))
    try:
        for left in range(restarts, -1, -1):
            running.clear()
            try:
                running[:] = [subprocess.Popen(command, env=shim_environment(os.environ))]  # noqa: S603
            except OSError as error:
                typer.echo(f"error: {command[0]}: {error.strerror or error}", err=True)
                return _NOT_FOUND
            for number in missed:  # they came while the program was being started
                running[0].send_signal(number)
            missed.clear()
            code = running[0].wait()
            if code == 0 or stopped or left == 0:
                break
            typer.echo(f"the program ended with {code} and is started again; restarts left: {left - 1}", err=True)
    finally:
        for number, handler in earlier.items():
            signal.signal(number, handler)
    return code if code >= 0 else _SIGNALED - code


def shim_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment in which ``import tinker`` is this client."""
    path = [str(SHIM_PATH), *filter(None, [environment.get("PYTHONPATH")])]
    return {**environment, "PYTHONPATH": os.pathsep.join(path)}
