"""docs/tutorial.md, run as a reader would: its commands, typed into real shells, print what the page shows."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Cli, until

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"<!-- (?P<note>.+?) -->\n```console\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_TIMEOUT_S = 240
BASH = shutil.which("bash")

pytestmark = [pytest.mark.timeout(600), pytest.mark.skipif(BASH is None, reason="bash is not installed")]


@dataclass
class Command:
    """A line after ``$``, the lines that the page shows under it, and where it is typed."""

    terminal: str
    text: str
    shown: list[str] = field(default_factory=list)
    keeps_running: bool = False


def commands() -> list[Command]:
    """Those of the page, in order."""
    found: list[Command] = []
    for block in BLOCK.finditer(PAGE.read_text()):
        note = re.fullmatch(r"terminal: (\w+)(, keeps running)?", block["note"])
        if note is None:
            assert block["note"].startswith("not run: ")
            continue
        for line in block["lines"].splitlines():
            if line.startswith("$ "):
                found.append(Command(note[1], line[2:], keeps_running=note[2] is not None))
            else:
                found[-1].shown.append(line)
    return found


class Terminal:
    """A bash whose output goes to a file."""

    def __init__(self, file: Path, folder: Path, environment: dict[str, str]) -> None:
        self._file = file
        with file.open("w") as output:
            self._shell = subprocess.Popen(
                [str(BASH), "--norc"],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )

    def type(self, command: Command) -> None:
        """Run a command, and wait until it has printed what is shown, and has ended unless it keeps running."""
        before = len(self._file.read_text())
        done = f"<done {before}>"
        assert self._shell.stdin is not None
        self._shell.stdin.write(f"{command.text}\necho '{done}'\n")
        self._shell.stdin.flush()

        def printed() -> str:
            return self._file.read_text()[before:]

        if command.keeps_running:
            until(lambda: missing(command.shown, printed()) is None, command.text, COMMAND_TIMEOUT_S)
        else:
            until(lambda: done in printed(), command.text, COMMAND_TIMEOUT_S)
            absent = missing(command.shown, printed())
            assert absent is None, f"on the page, but not printed by {command.text}: {absent}"

    def close(self) -> None:
        """End the shell and everything that was started in it."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self._shell.pid, number)
                self._shell.communicate(timeout=20)
            except (ProcessLookupError, subprocess.TimeoutExpired):
                continue


def missing(shown: list[str], printed: str) -> str | None:
    """The first line of those shown that is not printed after the ones before it; None if all are."""
    lines = iter(printed.splitlines())
    for line in shown:
        pattern = r"\s+".join(re.escape(word).replace(r"\.\.\.", ".*") for word in line.split())
        if not any(re.match(rf"\s*{pattern}", candidate) for candidate in lines):
            return line
    return None


@contextmanager
def terminals(names: set[str], folder: Path, environment: dict[str, str]) -> Iterator[dict[str, Terminal]]:
    opened: dict[str, Terminal] = {}
    try:
        for name in sorted(names):
            opened[name] = Terminal(folder / f"{name}.out", folder, environment)
        yield opened
    finally:
        for terminal in opened.values():
            terminal.close()


def test_the_tutorial_runs_as_it_is_written(cli: Cli, tmp_path: Path) -> None:
    """From an installed clone to a trained model, through a SIGKILL."""
    typed = commands()
    assert any("kill -9" in command.text for command in typed)
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {name: value for name, value in cli.environment.items() if name != "NSAI_WORK_HOME"}

    with terminals({command.terminal for command in typed}, tmp_path, {**environment, "PATH": path}) as opened:
        try:
            for command in typed:
                opened[command.terminal].type(command)
        except AssertionError as error:
            for file in (*tmp_path.glob("*.out"), *tmp_path.glob("*.log")):
                error.add_note(f"--- {file.name}\n{file.read_text()[-4000:]}")
            raise
