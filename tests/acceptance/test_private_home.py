"""The home folder and everything in it are accessible to its user only, whichever command comes first."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli, until

Job = dict[str, Any]
Write = Callable[[Any], Path]


@pytest.fixture(autouse=True)
def _umask_that_lets_others_read() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def exposed(home: Path) -> list[str]:
    """The folders and files of a home that others may read, with their modes."""
    paths = [home, *home.rglob("*")]
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in paths if not path.is_symlink()}
    return [f"{path.relative_to(home)} {mode:o}" for path, mode in modes.items() if mode & 0o077]


@pytest.mark.parametrize("first", ["submit", "run", "db upgrade"])
def test_a_command_makes_a_private_home(cli: Cli, job: Job, job_file: Write, first: str) -> None:
    """Database, spool and the local backend's checkpoints: folders 0700, files 0600."""
    arguments = [*first.split(), *([] if first == "db upgrade" else [job_file(job)])]

    done = cli.run(*arguments)

    assert done.returncode == 0, done.stderr
    assert (cli.home / "nsai-work.db").exists()
    assert exposed(cli.home) == []


def test_a_worker_makes_a_private_home(cli: Cli, job: Job, job_file: Write) -> None:
    """Also the spool's queues, while it listens to them."""
    with cli.running("worker"):
        until(lambda: list((cli.home / "spool").glob("*")), "the worker's queues")
        cli.wait_for(cli.json("submit", job_file(job))["id"], "succeeded")
        assert exposed(cli.home) == []


def test_a_dev_server_makes_a_private_home(cli: Cli, job: Job, job_file: Write) -> None:
    """Its runs and checkpoints hold what users train on, so they are private too."""
    with cli.dev_server():
        assert exposed(cli.home) == []
        done = cli.run("run", job_file({**job, "backend": "tinkex"}))
        assert done.returncode == 0, done.stderr
        assert list((cli.home / "dev-server").rglob("checkpoint.json"))
        assert exposed(cli.home) == []


def test_a_store_opened_from_python_makes_a_private_home(cli: Cli) -> None:
    """The engine's own folder, without any command before it."""
    with cli.store() as store:
        store.ping()
        assert exposed(cli.home) == []
