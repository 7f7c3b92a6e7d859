"""``list``, ``show`` and ``run`` with ``--json``, on a store with rows that hold what is not JSON."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
from sqlalchemy import text

from nsai_work import Job
from nsai_work.cli import main
from nsai_work.clock import SystemClock
from nsai_work.store import ClaimRequest, Outcome
from tests.rig import command
from tests.working_store import WorkingStore, open_working_store, selection

Call = Callable[..., Any]
GOOD = {"metadata": {"sweep": 3}, "tags": ["a"]}


def refuse(constant: str) -> NoReturn:
    """NaN and infinities are no JSON."""
    raise AssertionError(constant)


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run ``nsai-work`` with ``--json`` in this process, and return its output, which is strictly JSON."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str, code: int = 0) -> Any:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments, "--json"])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert exited.value.code == code, shown.err
        assert "a mistake in the program" not in shown.err
        return json.loads(shown.out, parse_constant=refuse)

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkingStore]:
    """The store of the command line."""
    (tmp_path / "home").mkdir()
    opened = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}", SystemClock())
    yield opened
    opened.close()


def finished(store: WorkingStore, *jobs: Job) -> None:
    """Submit jobs, and end them."""
    store.submit(jobs)
    for claim in store.claim(ClaimRequest("w", len(jobs), 15.0, selection(backends={"fake": "fake"}))):
        store.finish(claim, Outcome.succeeded({"loss": 0.5}))


def damage(store: WorkingStore, job_id: str, table: str, column: str, change: Callable[[Any], Any]) -> None:
    """Change JSON of a job where it is stored, unchecked."""
    key = "seq" if table == "nsai_jobs" else "job_seq"
    where = f"WHERE {key} = (SELECT seq FROM nsai_jobs WHERE id = :id)"
    with store.database.transaction() as tx:
        (stored,) = tx.connection.execute(text(f"SELECT {column} FROM {table} {where}"), {"id": job_id}).one()
        value = json.dumps(change(json.loads(stored)))
        tx.connection.execute(text(f"UPDATE {table} SET {column} = :value {where}"), {"value": value, "id": job_id})


@pytest.mark.parametrize("number", ["nan", "inf", "-inf"])
def test_a_row_with_nan_hides_no_job(call: Call, store: WorkingStore, number: str) -> None:
    """In the metadata and in the result; the good job is shown whole, the other one by its id."""
    good, bad = command(**GOOD), command()
    finished(store, good, bad)
    before = {job: call("show", job) for job in (good.id, bad.id)}
    damage(store, bad.id, "nsai_job_specs", "spec", lambda spec: {**spec, "metadata": {"best": [float(number)]}})
    damage(store, bad.id, "nsai_jobs", "result", lambda result: {**result, "loss": float(number)})

    listed = {job["id"]: job for job in call("list")}
    assert listed[good.id].items() <= before[good.id].items()
    assert listed.keys() == {good.id, bad.id}
    assert call("show", good.id) == before[good.id]
    assert call("run", good.id) == listed[good.id]

    shown = call("show", bad.id)
    assert (shown["id"], shown["status"]) == (bad.id, "succeeded")
    assert listed[bad.id].items() <= shown.items()
    changed = {name for name in shown if shown[name] != before[bad.id][name]}
    assert changed - {"error"} == {"metadata", "result"}
    assert call("run", bad.id) == listed[bad.id]


def test_jobs_with_nan_that_wait_run(call: Call, store: WorkingStore, tmp_path: Path) -> None:
    """A file runs beside them, and so do they themselves."""
    bad = command(**GOOD)
    store.submit([bad])
    damage(store, bad.id, "nsai_job_specs", "spec", lambda spec: {**spec, "metadata": {"best": float("nan")}})
    (tmp_path / "job.json").write_text(command(**GOOD).model_dump_json(include={"kind", "backend", "payload"}))

    assert call("run", str(tmp_path / "job.json"))["status"] == "succeeded"
    done = call("run", bad.id)
    assert (done["id"], done["status"], done["tags"]) == (bad.id, "succeeded", ["a"])
