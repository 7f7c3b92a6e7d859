"""docs/tutorial.md, run as a reader would: its commands, typed into real shells, print what the page shows."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.acceptance.conftest import ROOT, Cli, until
from tests.zygote import MAX_MESSAGE, CliProcess

PAGE = ROOT / "docs" / "tutorial.md"
BLOCK = re.compile(r"<!-- (?P<note>.+?) -->\n```console\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND_TIMEOUT_S = 240
BASH = shutil.which("bash")
PYTHON_FOLDER = Path(sys.executable).parent

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(BASH is None, reason="bash is not installed"),
]


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


LAUNCHER = """#!{python} -SE
import json, os, socket, sys
if sys.argv[1] in ("worker", "dev-server"):
    os.execv("{script}", ["nsai-work", *sys.argv[1:]])
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect("{address}")
request = dict(arguments=sys.argv[1:], cwd=os.getcwd(), env=dict(os.environ))
socket.send_fds(connection, [json.dumps(request).encode()], [0, 1, 2])
sys.exit(int(connection.recv(64)))
"""
"""``nsai-work`` as a shell finds it. What is killed is the installed script; other commands, of which each would
import for a second, are forked by the tests' zygote, with the shell's files, folder and environment."""


def _run_for(connection: socket.socket) -> None:
    with connection:
        message, files, _, _ = socket.recv_fds(connection, MAX_MESSAGE, 3)
        request = json.loads(message)
        streams = dict(zip(("stdin", "stdout", "stderr"), files, strict=True))
        cwd, env = Path(request["cwd"]), request["env"]
        process = CliProcess(request["arguments"], cwd=cwd, env=env, **streams)
        for file in files:
            os.close(file)
        connection.send(str(process.wait()).encode())


@contextmanager
def launcher(folder: Path) -> Iterator[Path]:
    """The folder of a launcher, while commands are run for it."""
    folder.mkdir()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener, tempfile.TemporaryDirectory() as short:
        # the path of a socket may have 108 bytes
        listener.bind(address := f"{short}/zygote")
        listener.listen(64)

        def accept() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                threading.Thread(target=_run_for, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        script = Path(sys.executable).with_name("nsai-work")
        (folder / "nsai-work").write_text(LAUNCHER.format(python=sys.executable, script=script, address=address))
        (folder / "nsai-work").chmod(0o700)
        yield folder
        listener.shutdown(socket.SHUT_RDWR)


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
    environment = {name: value for name, value in cli.environment.items() if name != "NSAI_WORK_HOME"}

    with (
        launcher(tmp_path / "bin") as commands_folder,
        terminals(
            {command.terminal for command in typed},
            tmp_path,
            {
                **environment,
                "PATH": os.pathsep.join(map(str, (commands_folder, PYTHON_FOLDER, os.environ["PATH"]))),
            },
        ) as opened,
    ):
        try:
            for command in typed:
                opened[command.terminal].type(command)
        except AssertionError as error:
            for file in (*tmp_path.glob("*.out"), *tmp_path.glob("*.log")):
                error.add_note(f"--- {file.name}\n{file.read_text()[-4000:]}")
            raise
