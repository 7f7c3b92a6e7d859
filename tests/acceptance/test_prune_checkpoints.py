"""``nsai-work db prune --delete-checkpoints`` forgets training jobs, and their checkpoints at the service."""

import json
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.acceptance.conftest import Cli

Write = Callable[[Any], Path]
PRUNE = ("db", "prune", "--older-than", "1d", "--delete-checkpoints")


@pytest.fixture
def server(cli: Cli) -> Iterator[str]:
    """A dev server."""
    with cli.dev_server() as url:
        yield url


@pytest.fixture
def old_job(cli: Cli, server: str, job: dict[str, Any], job_file: Write) -> str:
    """A training job of the dev server that ended long ago."""
    del server
    job["backend"] = "tinkex"
    job_id = str(cli.json("run", job_file(job))["id"])
    with sqlite3.connect(cli.home / "nsai-work.db") as connection:
        connection.execute("UPDATE nsai_jobs SET completed_at = 1")
    connection.close()
    return job_id


def at_service(cli: Cli, url: str) -> int:
    """The number of checkpoints that the service has."""
    del cli
    headers = {"X-API-Key": "tml-dev"}
    return len(httpx.get(f"{url}/api/v1/checkpoints", headers=headers).json()["checkpoints"])


def test_a_dry_run_counts_and_a_run_deletes(cli: Cli, server: str, old_job: str) -> None:
    """Without the option the job is kept; with it, neither the store nor the service has anything left."""
    kept = cli.json("db", "prune", "--older-than", "1d")
    count = at_service(cli, server)
    counted = cli.json(*PRUNE, "--dry-run")
    unchanged = at_service(cli, server)
    said = cli.run(*PRUNE, "--dry-run").stdout
    done = cli.json(*PRUNE)

    assert kept == {"older": 1, "with_checkpoints": 1, "forgotten": 0, "files": 0}
    assert count == unchanged > 0
    assert counted["deleted_checkpoints"] == 0
    assert f"{counted['checkpoints']['tinkex']} checkpoints at tinkex would be deleted" in said
    assert done["checkpoints"] == counted["checkpoints"]
    assert (done["forgotten"], done["deleted_checkpoints"]) == (1, counted["checkpoints"]["tinkex"])
    assert at_service(cli, server) == 0
    assert cli.run("show", old_job).returncode == 3


def test_a_promoted_checkpoint_and_its_job_are_kept(cli: Cli, server: str, old_job: str) -> None:
    """Promoting means keeping for good; the job's other checkpoints are deleted."""
    promoted = next(item["name"] for item in cli.json("checkpoints", old_job) if item["kept"])
    cli.json("promote", old_job, promoted)

    done = cli.json(*PRUNE)

    assert done["forgotten"] == 0
    assert [item["name"] for item in cli.json("checkpoints", old_job) if item["kept"]] == [promoted]
    assert at_service(cli, server) > 0


def test_a_service_that_fails_loses_nothing_and_the_next_run_continues(cli: Cli, server: str, old_job: str) -> None:
    """Exit code 1; the job and the started deletion are on record, and a later run finishes them."""
    away = Cli(cli.home, {"TINKER_BASE_URL": "http://127.0.0.1:1", "TINKER_API_KEY": "tml-x"} | SHORT)

    failed = away.run(*PRUNE, "--json")
    deleting = [item["status"] for item in cli.json("checkpoints", old_job)]
    done = cli.json(*PRUNE)

    assert failed.returncode == 1
    error = json.loads(failed.stderr)["error"]
    assert error["code"] in ("backend_unavailable", "request_timeout")
    assert "0 were deleted, and no job; run the command again" in error["message"]
    assert "deleting" in deleting
    assert done["forgotten"] == 1
    assert at_service(cli, server) == 0


def test_either_forget_or_delete(cli: Cli) -> None:
    """The two options contradict each other."""
    assert cli.run(*PRUNE, "--forget-checkpoints").returncode == 2


SHORT = {"NSAI_WORK_SUBMIT_TIMEOUT_S": "1"}
