"""``nsai-work cancel`` and ``retry`` of several jobs and of a tag; ``show`` of a job that runs."""

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from nsai_work import Job
from nsai_work.cli import main
from nsai_work.cli.commands.watch import show_past
from nsai_work.cli.output.job_view import PlainView
from nsai_work.cli.output.stdout import write_table
from nsai_work.clock import SystemClock
from nsai_work.presentation.progress import RunProgress
from nsai_work.store import ClaimRequest, Outcome
from nsai_work.store.lifecycle.events import add_event
from tests.rig import command
from tests.working_store import WorkingStore, open_working_store, selection

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run ``nsai-work`` in this process, and return its exit code, output and errors."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        return int(exited.value.code or 0), shown.out, shown.err

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkingStore]:
    """The store of the command line: a job that is done, and three that wait, two of them tagged."""
    (tmp_path / "home").mkdir()
    opened = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}", SystemClock())
    opened.submit([command(id="done-1", tags=["sweep"])])
    (claim,) = opened.claim(ClaimRequest("w", 1, 15.0, selection(backends={"fake": "fake"})))
    opened.finish(claim, Outcome.succeeded({}))
    opened.submit([command(id=f"wait-{number}", tags=["sweep"] if number < 3 else []) for number in (1, 2, 3)])
    yield opened
    opened.close()


def test_several_ids_and_a_tag_are_canceled_and_retried(call: Call, store: WorkingStore) -> None:
    """Each once; a tag leaves out what has ended, or what did not fail."""
    code, out, _ = call("cancel", "wait-3", "wait-1", "--tag", "sweep", "--json")
    assert (code, [row["id"] for row in json.loads(out)]) == (0, ["wait-3", "wait-1", "wait-2"])
    assert {row["status"] for row in json.loads(out)} == {"canceled"}

    code, out, _ = call("retry", "--tag", "sweep")
    assert (code, sorted(out.splitlines())) == (0, ["wait-1 queued", "wait-2 queued"])
    assert json.loads(call("retry", "wait-3", "--json")[1]) == {"id": "wait-3", "status": "queued"}
    assert json.loads(call("cancel", "--tag", "nothing", "--json")[1]) == []
    assert "no job with this tag" in call("cancel", "--tag", "nothing")[2]


def test_a_pipeline_is_retried_by_its_tag(call: Call, store: WorkingStore) -> None:
    """Whatever depends on another job waits for it, although it was submitted later."""
    store.submit(
        [
            command(id="first-1", tags=["pipe"]),
            command(id="second-1", tags=["pipe"], constraints={"depends_on": ["first-1"]}),
        ]
    )
    call("cancel", "--tag", "pipe")

    code, out, _ = call("retry", "--tag", "pipe")

    assert (code, out.splitlines()) == (0, ["first-1 queued", "second-1 pending"])


@pytest.mark.parametrize("name", ["steps", "evaluations", "checkpoints"])
def test_what_a_job_does_not_have(call: Call, store: WorkingStore, name: str) -> None:
    """It may get it while it waits or runs, and no more once it has ended; one that trains nothing never does."""
    payload = {"base_model": "tiny-lm", "data": {"path": "/talks.jsonl"}, "max_steps": 1, "eval": {"split": 0.5}}
    store.submit([Job.parse({"id": "train-1", "kind": "training_step", "backend": "fake", "payload": payload})])
    assert call(name, "train-1")[1:] == (f"no {name} yet\n", "")
    store.request_cancel("train-1")
    assert call(name, "train-1")[1:] == (f"no {name}: the job has ended as canceled\n", "")
    for other in ("wait-1", "done-1"):
        kind = store.get(other).kind
        assert call(name, other)[1:] == (f"no {name}: a job of kind {kind} trains no model\n", "")


def test_a_job_without_eval_has_no_evaluations(call: Call, store: WorkingStore) -> None:
    """Which is known from the start."""
    payload = {"base_model": "tiny-lm", "data": {"path": "/talks.jsonl"}, "max_steps": 1}
    store.submit([Job.parse({"id": "train-1", "kind": "training_step", "backend": "fake", "payload": payload})])
    assert call("evaluations", "train-1")[1] == "no evaluations: the job has no eval\n"


def test_what_a_cancel_does_not_change_at_once_is_said(call: Call, store: WorkingStore) -> None:
    """For people: the status alone reads as if nothing had been asked."""
    [claim] = store.claim(ClaimRequest("w", 1, 15.0, selection(backends={"fake": "fake"})))
    assert call("cancel", "done-1") == (0, "done-1 succeeded\n", "job done-1 had ended before\n")
    asked = f"job {claim.job_id} is canceled by its worker, at its next step\n"
    assert call("cancel", claim.job_id) == (0, f"{claim.job_id} running\n", asked)
    assert call("cancel", claim.job_id, "--json")[2] == ""


def test_no_steps_to_plot(call: Call, store: WorkingStore) -> None:
    """The same of several jobs."""
    assert call("plot", "wait-1", "done-1")[2] == "no steps yet\n"
    assert call("plot", "done-1")[2] == "no steps: every job has ended\n"


def test_an_ended_job_without_a_model(call: Call, store: WorkingStore) -> None:
    """It has no checkpoints, and gets none."""
    payload = {"base_model": "tiny-lm", "data": {"path": "/talks.jsonl"}, "max_steps": 1}
    fields = {"kind": "training_step", "backend": "fake", "payload": payload}
    store.submit([Job.parse({"id": "train-1", **fields})])
    assert "'final'; it has no checkpoints yet\n" in call("complete", "--model", "train-1", "Hi")[2]
    store.request_cancel("train-1")
    assert "'final'; it has no checkpoints\n" in call("complete", "--model", "train-1", "Hi")[2]


@pytest.mark.usefixtures("store")
def test_a_bad_setting_is_found_before_the_key_file(
    call: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Whatever options a command has, its settings are checked first."""
    monkeypatch.setenv("NSAI_WORK_LOG_LEVEL", "loud")
    code, _, errors = call("serve", "--key-file", str(tmp_path / "missing"))
    assert code == 2
    assert "NSAI_WORK_LOG_LEVEL" in errors


def test_a_wrong_id_changes_nothing(call: Call, store: WorkingStore) -> None:
    """Also not the jobs before it."""
    code, out, err = call("cancel", "wait-1", "nonesuch")
    assert (code, out) == (3, "")
    assert "nonesuch" in err
    assert store.get("wait-1").status == "queued"


def test_no_id_and_no_tag_is_refused(call: Call, store: WorkingStore) -> None:
    """With what to give."""
    code, _, err = call("cancel")
    assert code == 2
    assert "--tag" in err


def test_what_was_changed_before_an_error_is_written(call: Call, store: WorkingStore) -> None:
    """A job that succeeded cannot be retried; the one before it was."""
    call("cancel", "wait-1")
    code, out, err = call("retry", "wait-1", "done-1", "--json")
    assert code == 2
    assert json.loads(out) == [{"id": "wait-1", "status": "queued"}]
    assert "done-1" in err


def test_a_table_with_a_width_cuts_its_last_column(capsys: pytest.CaptureFixture[str]) -> None:
    """Wide characters count twice; the first columns stay whole."""
    write_table(("A", "B"), [("a" * 10, "b" * 99), ("a", "語" * 50)], if_empty="", width=40)
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["A           B", f"{'a' * 10}  {'b' * 27}…", f"a{' ' * 11}{'語' * 13} …"]


def test_the_list_fits_100_columns_and_its_ids_are_taken(call: Call, store: WorkingStore) -> None:
    """Short ids find their job; a long name is cut, and nothing is coloured without a terminal."""
    waits = {"depends_on": ["wait-1", "wait-2", "wait-3"]}
    named = command(constraints=waits).model_copy(update={"name": "n" * 200})
    store.submit([named])

    code, out, _ = call("list")

    heading, first, *others = out.splitlines()
    assert (code, heading.split()[:4]) == (0, ["ID", "STATUS", "CREATED", "BACKEND"])
    assert max(map(len, out.splitlines())) <= 100
    assert "\x1b" not in out
    short, status = first.split()[:2]
    assert (short, status) == (named.id[-8:], "pending")
    assert f" {'n' * 23}…  depends on wait-1" in first
    assert json.loads(call("show", short, "--json")[1])["id"] == named.id
    assert [line.split()[0] for line in others] == ["wait-3", "wait-2", "wait-1", "done-1"]


def test_a_running_job_is_watched_from_its_last_events(store: WorkingStore) -> None:
    """What was before is counted, and has no lines; the place to go on from is returned."""
    (claim,) = store.claim(ClaimRequest("w", 1, 15.0, selection(backends={"fake": "fake"})))
    for number in range(1, 31):
        store.database.run(add_event, claim.job_id, "checkpoint.committed", {"step": number, "name": f"c{number}"})
    out, progress = io.StringIO(), RunProgress()

    after = show_past(store, claim.job_id, PlainView(Console(file=out), progress))

    assert out.getvalue().splitlines() == [f"checkpoint at step {step}: c{step}" for step in range(21, 31)]
    assert (progress.checkpoints, progress.status) == (30, "running")
    assert after == store.events(claim.job_id)[-1].seq
