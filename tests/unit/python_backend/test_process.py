"""An isolated function: its environment, its output, and its end."""

import gc
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from backends.python import PythonBackend
from backends.python.child import encoded
from backends.python.process import _Message
from crucible.backend import Command, CommandCall
from crucible.errors import BackendUnavailable, CommandFailed, CommandRetry, InvalidRequest
from crucible.testing.loop import run_opened
from nsai_work.errors import LeaseLost
from tests.rig import until


def execute(name: str, config: dict[str, Any] | None = None, **arguments: Any) -> dict[str, Any]:
    """Run a test function in a process of its own."""
    backend = PythonBackend({"allow": ["tests.functions"], **(config or {})})
    command = Command(name=f"tests.functions:{name}", arguments=arguments, options={"isolated": True})
    return run_opened(backend, lambda opened: opened.execute(command))


def test_it_receives_no_secret_unless_allowed(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Only a few variables, and those that the worker's setting names. What it prints is in the log."""
    secrets = {
        "TINKER_API_KEY": "tml-1",
        "OPENAI_API_KEY": "sk-1",
        "NSAI_WORK_DATABASE_URL": "x",
        "MY_SETTING": "7",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    with caplog.at_level("INFO"):
        seen = execute("environment", {"environment": ["MY_SETTING"]})

    assert seen["MY_SETTING"] == "7"
    assert not {*secrets} & {*seen} - {"MY_SETTING"}
    assert {*seen} <= {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMPDIR", "TZ", "PYTHONPATH", "MY_SETTING"}
    assert "printed by a function" in caplog.text


@pytest.mark.parametrize(
    ("name", "message"), [("die", "exit status 3"), ("leave", "raised SystemExit"), ("fail", "raised ValueError")]
)
def test_its_end_is_the_end_of_its_job_alone(name: str, message: str) -> None:
    """However it ends. The text of its error is not in the job's."""
    with pytest.raises(CommandFailed, match=message) as caught:
        execute(name)
    assert "secret-7" not in caught.value.failure().model_dump_json()


@pytest.mark.parametrize(
    ("kind", "error"), [("retry", CommandRetry), ("unavailable", BackendUnavailable), ("invalid", InvalidRequest)]
)
def test_errors_of_the_family_keep_their_class(kind: str, error: type[Exception]) -> None:
    """With their text and their delay."""
    with pytest.raises(error, match="by request") as caught:
        execute("refuse", kind=kind)
    assert caught.value.retry_after_ms == 10  # type: ignore[attr-defined]


def start_child(name: str, owned_until: float | None) -> "subprocess.Popen[bytes]":
    """Start a test function as a worker would."""
    request = {
        "name": f"tests.functions:{name}",
        "arguments": {},
        "job_id": "a",
        "attempt": 1,
        "folder": "/nowhere",
        "allow": ["tests.functions"],
        "owned_until": owned_until,
    }
    child = subprocess.Popen(
        [sys.executable, "-m", "backends.python.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=Path(__file__).parents[3],
        start_new_session=True,
    )
    assert child.stdin is not None
    child.stdin.write(json.dumps(request).encode() + b"\n")
    child.stdin.flush()
    return child


def test_the_reason_of_a_failure_arrives_whatever_its_text() -> None:
    """A lone surrogate made the line invalid, and the function's error was not known."""
    failure = CommandFailed("bad \ud800", backend="python").failure().model_dump(mode="json")
    line = encoded({"failure": failure, "traceback": "ValueError: \ud800\x00"})

    message = _Message.model_validate_json(line)
    assert message.failure is not None
    assert message.traceback == "ValueError: ?\x00"


def test_it_ends_with_its_worker() -> None:
    """A worker that is killed leaves no function behind."""
    child = start_child("never_checks", owned_until=None)
    assert child.stdin is not None
    child.stdin.close()

    assert child.wait(30) == -9


@pytest.mark.parametrize("name", ["never_checks", "hold_interpreter"])
def test_it_ends_before_another_worker_may_run_it(name: str) -> None:
    """If its worker no longer moves that time on, and also if the function lets no other thread run. Which of its
    two ends comes first is for the machine to say."""
    child = start_child(name, owned_until=time.monotonic() + 1)
    assert child.stdin is not None
    child.stdin.write(f"{time.monotonic() + 2}\n".encode())
    child.stdin.flush()

    assert child.wait(60) in (-9, 1)
    child.stdin.close()


def test_a_job_that_is_no_longer_the_workers_is_lost_and_has_not_failed() -> None:
    """What ends it is not the function."""
    backend = PythonBackend({"allow": ["tests.functions"]})
    command = Command(name="tests.functions:never_checks", options={"isolated": True})
    ends_at = time.monotonic() + 1
    call = CommandCall(owned_for_s=lambda: ends_at - time.monotonic())

    with pytest.raises(LeaseLost, match="stood still"):
        run_opened(backend, lambda opened: opened.run_command(command, call))


def is_running(pid: int) -> bool:
    """Whether a process exists and is more than an entry that nobody has collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_what_it_started_ends_with_it() -> None:
    """Its process group is killed."""
    pid = execute("start_process")["value"]

    until(lambda: not is_running(pid), "the process of the function's process has ended")


def test_what_leaves_its_group_does_not_delay_it() -> None:
    """The result is there at once, and no pipe stays open (a warning would fail the test)."""
    pid = execute("start_daemon")["value"]

    assert is_running(pid)
    os.kill(pid, signal.SIGKILL)
    gc.collect()
