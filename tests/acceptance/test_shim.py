"""``nsai-work shim``: a program written for the Tinker SDK, run unchanged on our client."""

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from backends.tinkex import shim_command
from backends.tinkex_dev import faults
from backends.tinkex_dev.server import DEV_KEY, DevServer
from nsai_work.cli.app import app

PROGRAM = '''
"""A loop that resumes by itself, as those of the cookbook do."""
import json, subprocess, sys
from pathlib import Path

import tinker
from tinker import types
from tinker.lib.public_interfaces import APIFuture
from tinker.lib.public_interfaces.rest_client import RestClient
from tinker.types.tensor_data import TensorData

NOTE, OUT = Path("note.json"), Path("losses.jsonl")
assert types.TensorData is TensorData and issubclass(tinker.TrainingClientFuture, APIFuture)
inherited = subprocess.run(
    [sys.executable, "-c", "import tinker; print(tinker.__file__)"], capture_output=True, text=True, check=True
)
assert inherited.stdout.strip() == tinker.__file__, inherited

service = tinker.ServiceClient()
note = json.loads(NOTE.read_text()) if NOTE.exists() else None
if note is None:
    run, start = service.create_lora_training_client("llama-3.2-1b", rank=4, seed=1).result(), 0
else:
    run = service.create_training_client_from_state_with_optimizer(note["path"]).result()
    start = note["step"]
for step in range(start, 4):
    inputs = {"target_tokens": [2, 3, 4 + step], "weights": [1.0, 1.0, 1.0]}
    data = [types.Datum(types.ModelInput.from_ints([1, 2, 3]), inputs)]
    passed = run.forward_backward(data, "cross_entropy")
    run.optim_step(types.AdamParams(learning_rate=0.05)).result()
    with OUT.open("a") as out:
        print(json.dumps([step, passed.result().metrics["loss:sum"]]), file=out)
    if step % 2:
        saved = run.save_state(f"step-{step}").result()
        NOTE.write_text(json.dumps({"path": saved.path, "step": step + 1}))
'''


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[DevServer]:
    """A dev server, and the folder of a program that uses it."""
    (tmp_path / "program.py").write_text(PROGRAM)
    monkeypatch.chdir(tmp_path)
    with DevServer(tmp_path / "state", seed=3) as server:
        monkeypatch.setenv("TINKER_BASE_URL", server.url)
        monkeypatch.setenv("TINKER_API_KEY", DEV_KEY)
        yield server


def losses(folder: Path) -> list[str]:
    """The lines that the program wrote, and none after."""
    path = folder / "losses.jsonl"
    lines = path.read_text().splitlines()
    path.unlink()
    (folder / "note.json").unlink()
    return lines


@pytest.mark.slow
def test_a_corrupted_program_is_started_again_and_ends_as_an_undisturbed_one(
    server: DevServer, tmp_path: Path
) -> None:
    """It resumes from its own checkpoint; its children have the same ``tinker``."""
    command = ["shim", "--restarts", "1", "--", sys.executable, "program.py"]
    undisturbed = CliRunner().invoke(app, command)
    assert undisturbed.exit_code == 0, undisturbed.output
    expected = losses(tmp_path)

    server.fault(faults.CorruptRun(after_optim_steps=3))
    disturbed = CliRunner().invoke(app, command)

    assert disturbed.exit_code == 0, disturbed.output
    assert "is started again; restarts left: 0" in disturbed.output
    assert list(dict.fromkeys(losses(tmp_path))) == expected


@pytest.mark.parametrize(("code", "restarts", "runs", "expected"), [(0, 2, 1, 0), (3, 2, 3, 3), (-9, 0, 1, 137)])
def test_a_program_is_started_again_only_when_it_fails(
    tmp_path: Path, code: int, restarts: int, runs: int, expected: int
) -> None:
    """The exit code is that of its last run."""
    count = tmp_path / "count"
    script = f"echo run >> {count}; " + (f"kill {code} $$" if code < 0 else f"exit {code}")

    assert shim_command.run_program(["/bin/sh", "-c", script], restarts) == expected
    assert count.read_text().count("run") == runs


def test_a_program_that_is_stopped_is_not_started_again(tmp_path: Path) -> None:
    """The signal reaches it."""
    count = tmp_path / "count"
    script = f"echo run >> {count}; kill -TERM {os.getpid()}; sleep 60"
    before = signal.getsignal(signal.SIGTERM)

    assert shim_command.run_program(["/bin/sh", "-c", f"exec /bin/sh -c '{script}'"], 3) == 128 + signal.SIGTERM
    assert count.read_text().count("run") == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_missing_program_is_named() -> None:
    """With the exit code of bad input."""
    result = CliRunner().invoke(app, ["shim", "--", "no-such-program"])

    assert result.exit_code == 2
    assert "no-such-program: No such file" in result.output


def test_the_path_of_the_program_is_kept() -> None:
    """Ours is in front of it."""
    path = shim_command.shim_environment({"PYTHONPATH": "a:b", "X": "y"})

    assert path == {"X": "y", "PYTHONPATH": f"{shim_command.SHIM_PATH}:a:b"}
