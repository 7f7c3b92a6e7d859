"""``nsai-work results``: the rows of a job, on stdout or in a new file."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from crucible.errors import InvalidRequest
from nsai_work import Job, JobHandle, submit
from nsai_work.cli.app import app
from nsai_work.errors import InvalidJob
from nsai_work.testing import IsolatedStore, isolated_store, run_jobs

PROMPTS = 3
OPTIONS = {"model": "tiny-lm", "max_tokens": 2}


@pytest.fixture
def store() -> Iterator[IsolatedStore]:
    """An isolated store."""
    with isolated_store() as opened:
        yield opened


def submitted(kind: str, payload: dict[str, Any]) -> JobHandle:
    """A job that has run."""
    handle = submit(Job.parse({"kind": kind, "backend": "fake", "payload": payload}))
    run_jobs()
    return handle


@pytest.fixture
def batch(store: IsolatedStore, tmp_path: Path) -> JobHandle:
    """A batch that has ended, without an output."""
    source = tmp_path / "prompts.jsonl"
    rows = [{"prompt": f"\N{BLACK HEART SUIT}\u2028{n}", "id": n, "options": OPTIONS} for n in range(PROMPTS)]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return submitted("inference", {"input": {"path": str(source)}})


def results(*arguments: object) -> Any:
    """Run the command."""
    return CliRunner().invoke(app, ["results", *map(str, arguments)], catch_exceptions=False)


def test_the_answers_of_a_batch_are_lines_an_array_or_a_file(batch: JobHandle, tmp_path: Path) -> None:
    """All with the same rows."""
    rows = [*batch.results()]
    assert [row["id"] for row in rows] == [*range(PROMPTS)]
    lines = results(batch.id).stdout.splitlines()
    assert [json.loads(line) for line in lines] == rows
    assert json.loads(results(batch.id, "--json").stdout) == rows
    for name, flags in (("rows.jsonl", []), ("rows.json", ["--json"])):
        done = results(batch.id, tmp_path / name, *flags)
        assert done.stdout == ""
        assert f"3 rows in {tmp_path / name}" in done.stderr
    assert [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()] == rows
    assert json.loads((tmp_path / "rows.json").read_text()) == rows


def test_a_file_that_exists_is_left_alone(batch: JobHandle, tmp_path: Path) -> None:
    """Unless it has these rows already."""
    file = tmp_path / "rows.jsonl"
    results(batch.id, file)
    assert results(batch.id, file).exit_code == 0
    file.write_text("mine")
    with pytest.raises(InvalidJob, match=r"FILE: .*rows.jsonl: exists already"):
        results(batch.id, file)
    assert file.read_text() == "mine"
    with pytest.raises(InvalidJob, match=r"FILE: .*cannot be written"):
        results(batch.id, tmp_path / "missing" / "rows.jsonl")


@pytest.mark.usefixtures("store")
def test_rows_of_other_jobs(tmp_path: Path) -> None:
    """A single prompt has one, a function those in its result; other jobs have none and are refused."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": OPTIONS}
    one = submitted("inference", {"prompt": prompt})
    assert [*one.results()] == [{"line": 1, "completion": one.result()}]

    rows = [{"text": "a"}, {"text": "b"}]
    function = submitted("tool_call", {"command": "echo", "arguments": {"value": rows}})
    assert [*function.results()] == rows
    empty = submitted("tool_call", {"command": "echo", "arguments": {"value": []}})
    assert json.loads(results(empty.id, "--json").stdout) == []
    results(empty.id, tmp_path / "rows.json", "--json")
    assert json.loads((tmp_path / "rows.json").read_text()) == []

    for arguments in ({}, {"value": 1}, {"value": [1]}):
        handle = submitted("tool_call", {"command": "echo", "arguments": arguments})
        with pytest.raises(InvalidRequest, match="its result has no rows"):
            results(handle.id)
    with pytest.raises(InvalidRequest, match="a job of kind composite makes no rows"):
        results(submitted("composite", {}).id)


@pytest.mark.usefixtures("store")
def test_a_job_that_waits_has_no_rows_yet() -> None:
    """Which is no error."""
    prompt = {"messages": [{"role": "user", "content": "Hi"}], "options": OPTIONS}
    for kind, payload in {"inference": {"prompt": prompt}, "tool_call": {"command": "noop"}}.items():
        handle = submit(Job.parse({"kind": kind, "backend": "fake", "payload": payload}))
        assert (results(handle.id).stdout, results(handle.id, "--json").stdout) == ("", "[]\n")
