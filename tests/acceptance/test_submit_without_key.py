"""Only workers need the key of a service: submit works without it, and says what was not checked."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli

Job = dict[str, Any]
Write = Callable[[Any], Path]
KEY = "tml-the-key-of-the-worker"


@pytest.fixture
def tinkex(job: Job) -> Job:
    """A training job for the service."""
    return {**job, "backend": "tinkex"}


def test_submit_without_a_key_is_accepted_and_a_worker_with_the_key_runs_it(
    cli: Cli, tinkex: Job, job_file: Write, tmp_path: Path
) -> None:
    """The reason is printed and is an event of the job; the service accepts the key of the worker only."""
    key_file = tmp_path / "key"
    key_file.write_text(KEY)
    submitted = cli.run("submit", job_file(tinkex), "--json")
    job_id = json.loads(submitted.stdout)["id"]
    events = [json.loads(line) for line in cli.run("watch", job_id, "--timeout", 0, "--json").stdout.splitlines()]

    with cli.dev_server("--require-key-file", key_file) as url:
        done = Cli(cli.home, {"TINKER_API_KEY": KEY, "TINKER_BASE_URL": url}).json("run", job_id)

    assert submitted.returncode == 0, submitted.stderr
    assert "submit.unverified" in submitted.stderr
    assert "TINKER_API_KEY" in submitted.stderr
    (unverified,) = (event["data"] for event in events if event["name"] == "submit.unverified")
    assert "TINKER_API_KEY" in unverified["reason"]
    assert done["status"] == "succeeded"


def test_what_needs_no_key_is_checked_all_the_same(cli: Cli, tinkex: Job, job_file: Write) -> None:
    """An unknown loss is refused, and nothing is stored."""
    tinkex["payload"]["loss_fn"] = "cross_entropi"

    done = cli.run("submit", job_file(tinkex))

    assert done.returncode == 2
    assert "cross_entropi" in done.stderr
    assert not cli.home.exists()


def test_run_without_a_key_is_refused(cli: Cli, tinkex: Job, job_file: Write) -> None:
    """The process that submits is the one that runs the job, so nothing is stored."""
    done = cli.run("run", job_file(tinkex))

    assert done.returncode == 2
    assert "TINKER_API_KEY" in done.stderr
    assert not cli.home.exists()


def test_a_worker_finds_out_what_submit_could_not(cli: Cli, tinkex: Job, job_file: Write) -> None:
    """A model that the service does not have fails the job with the error that submit would have shown."""
    tinkex["payload"]["base_model"] = "no-such-model"
    job_id = cli.json("submit", job_file(tinkex))["id"]

    with cli.dev_server():
        done = cli.run("run", job_id)

    assert done.returncode == 1
    assert "no-such-model" in done.stderr
