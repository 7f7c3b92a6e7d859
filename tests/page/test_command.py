"""``nsai-work page`` as a process: it serves until it is stopped, and refuses what it cannot do."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from nsai_work import Settings
from nsai_work.cli import main
from tests.page.conftest import TOKEN
from tests.rig import WAIT_S
from tests.working_store import WorkingStore
from tests.zygote import CliProcess


@contextmanager
def _running(
    arguments: list[str], settings: Settings, folder: Path
) -> Iterator[tuple["subprocess.Popen[bytes]", dict[str, Any]]]:
    """Run a command until it is ready, and kill it at the end if it still runs."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    environment |= {"NSAI_WORK_HOME": str(settings.home), "NSAI_WORK_PAGE_TOKEN": TOKEN}
    log = folder / "stderr"
    with log.open("wb") as errors:
        process = CliProcess(
            arguments, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, cwd=folder
        )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        yield process, json.loads(line)
    finally:
        process.kill()
        process.wait(WAIT_S)
        process.stdout.close()


def test_it_serves_until_it_is_stopped(settings: Settings, store: WorkingStore, tmp_path: Path) -> None:
    """On a free port of loopback; with --json it prints where, and --name allows a host name."""
    arguments = ["page", "--listen", "0", "--name", "jobs.example.org", "--json"]
    with _running(arguments, settings, tmp_path) as (process, ready):
        assert ready["may_change"] is True
        assert ready["url"].startswith("http://127.0.0.1:")
        assert httpx.get(ready["url"]).status_code == 200
        assert httpx.get(ready["url"], headers={"Host": "jobs.example.org"}).status_code == 200
        assert httpx.get(ready["url"], headers={"Host": "example.org"}).status_code == 421
        with httpx.stream("GET", f"{ready['url']}/live/jobs") as stream:
            assert next(stream.iter_lines()).startswith("data: ")
            # an open stream does not hold the end up
            process.send_signal(signal.SIGTERM)
            assert process.wait(WAIT_S) == 0


def test_a_worker_serves_it_too(settings: Settings, store: WorkingStore, tmp_path: Path) -> None:
    """Beside its work, until it is stopped."""
    with _running(["worker", "--page", "0", "--json"], settings, tmp_path) as (process, ready):
        workers = httpx.get(f"{ready['page']}/workers.json").json()["workers"]
        assert [worker["id"] for worker in workers] == [ready["worker_id"]]
        process.send_signal(signal.SIGTERM)
        assert process.wait(WAIT_S) == 0


@pytest.mark.parametrize(
    ("arguments", "variables", "named"),
    [
        (["--listen", "example.org"], {}, "--listen"),
        (["--listen", "127.0.0.1:70000"], {}, "--listen"),
        (["--listen", "0", "--name", "https://jobs.example.org"], {}, "--name"),
        (["--listen", "0", "--name", "jobs.example.org:8020"], {}, "--name"),
        (["--listen", "0", "--name", ""], {}, "--name"),
        (["--listen", "203.0.113.1:0"], {}, "cannot listen there"),
        (["--listen", "0"], {"NSAI_WORK_PAGE_TOKEN": "short"}, "NSAI_WORK_PAGE_TOKEN"),
    ],
)
def test_what_it_refuses(
    arguments: list[str],
    variables: dict[str, str],
    named: str,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Names the option or the variable, and no token."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(settings.home))
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "argv", ["nsai-work", "page", *arguments])

    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == 2
    shown = capsys.readouterr().err
    assert named in shown
    assert "short" not in shown


def test_an_address_in_use_names_the_option_of_the_command(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker has no --listen."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(settings.home))
    monkeypatch.setattr(sys, "argv", ["nsai-work", "worker", "--page", "203.0.113.1:0"])

    with pytest.raises(SystemExit) as exited:
        main()

    assert exited.value.code == 2
    assert "--page: '203.0.113.1:0' is not allowed; cannot listen there" in capsys.readouterr().err
