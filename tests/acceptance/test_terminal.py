"""The output of commands on a pseudo-terminal."""

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.acceptance.conftest import TIMEOUT_S, Cli


def on_a_terminal(cli: Cli, *arguments: object) -> tuple[int, str]:
    """Run a command on a terminal. Returns its exit code and its output."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        cli.command(*arguments),
        env={**cli.environment, "TERM": "xterm-256color"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    shown = b""
    try:
        while piece := os.read(master, 65_536):
            shown += piece
    except OSError:
        pass  # Linux reports the closed other end so
    finally:
        os.close(master)
    return process.wait(TIMEOUT_S), shown.decode().replace("\r\n", "\n")


def test_an_answer_is_streamed(cli: Cli) -> None:
    """The streamed parts add up to the answer that a pipe receives, with the warning that it was cut after it."""
    options = ("--backend", "fake", "--model", "tiny-lm", "--max-tokens", 40, "--seed", 3, "Hello")

    code, shown = on_a_terminal(cli, "complete", *options)

    assert code == 0
    whole = cli.run("complete", *options)
    assert whole.stderr.startswith("warning: the answer was cut")
    assert shown == whole.stdout + whole.stderr


def test_a_run_has_a_bar(cli: Cli, job: dict[str, Any], job_file: Callable[[Any], Path]) -> None:
    """The bar has steps, loss, speed and checkpoints; the result follows."""
    code, shown = on_a_terminal(cli, "run", job_file(job))

    assert code == 0, shown
    assert "6/6" in shown
    assert "tok/s" in shown
    assert "3 ckpt" in shown
    assert "nsai-work complete --model" in shown
