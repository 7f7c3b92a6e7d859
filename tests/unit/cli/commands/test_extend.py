"""``nsai-work extend``, and the line of jobs that ``nsai-work show`` has."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crucible.errors import InvalidRequest
from nsai_work import Job, JobHandle, submit
from nsai_work.cli.app import app
from nsai_work.testing import isolated_store, run_jobs


@pytest.fixture
def first(tmp_path: Path) -> Iterator[JobHandle]:
    """A training job of two steps that has run."""
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"text": f"Text {n}"}) + "\n" for n in range(4)))
    payload = {"base_model": "tiny-lm", "data": {"path": str(data)}, "batch_size": 2, "max_steps": 2}
    with isolated_store(tmp_path / "store"):
        handle = submit(Job.parse({"kind": "training_step", "backend": "fake", "payload": payload}))
        run_jobs()
        yield handle


def call(*arguments: object) -> Any:
    """Run a command."""
    return CliRunner().invoke(app, [*map(str, arguments)], catch_exceptions=False)


def test_a_job_goes_on_and_show_has_the_line(first: JobHandle) -> None:
    """With each option, for people and for scripts."""
    second = call("extend", first.id, "--steps", 3).stdout.strip()
    options = ("--schedule", "linear", "--warmup-steps", 1, "--checkpoint", "latest", "--json")
    run_jobs()
    third = json.loads(call("extend", second, "--steps", 4, *options).stdout)["id"]

    payload = json.loads(call("show", third, "--json").stdout)["payload"]
    assert payload["max_steps"] == 9
    assert payload["schedule"] == {"shape": "linear", "warmup_steps": 1, "from_step": 5}
    assert payload["continue_from"] == {"job": second, "checkpoint": "latest", "step": 5, "path": None}
    assert json.loads(call("show", first.id, "--json").stdout)["line"] == [first.id, second, third]
    run_jobs()
    listed = call("list").stdout
    assert f"goes on with {first.id[-8:]}" in listed
    assert f"goes on with {second[-8:]}" in listed
    shown = call("show", second).stdout
    for job_id, steps in ((first.id, ("0", "2")), (second, ("2", "5")), (third, ("5", "9"))):
        [line] = [line for line in shown.splitlines() if line.startswith(job_id)]
        assert line.split()[2:4] == list(steps)
        assert ("this job" in line) == (job_id == second)


def test_a_warm_up_without_a_schedule_is_refused(first: JobHandle) -> None:
    """It would change nothing."""
    with pytest.raises(InvalidRequest, match="--warmup-steps"):
        call("extend", first.id, "--steps", 1, "--warmup-steps", 2)


def test_a_schedule_that_has_ended_is_refused_with_the_option() -> None:
    """And not with the whole payload."""
    start = {"job": "first", "step": 2}
    payload = {"base_model": "m", "data": {"path": "d"}, "max_steps": 3, "schedule": {"shape": "linear"}}
    with pytest.raises(InvalidRequest, match=r"^payload: schedule: .* \(nsai-work extend --schedule\)$"):
        Job.parse({"kind": "training_step", "payload": {**payload, "continue_from": start}})
