"""``nsai-work workers`` and ``nsai-work queue``: what they show is what the store holds."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nsai_work.cli import main
from nsai_work.presentation.quantities import duration_text
from nsai_work.store import ClaimRequest
from nsai_work.store.maintenance.workers import register_worker, worker_seen
from nsai_work.store.worker_id import WorkerId
from tests.rig import command
from tests.working_store import WorkingStore, open_working_store, selection

Call = Callable[..., str]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run ``nsai-work`` in this process, assert that it succeeds, and return its output."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert (exited.value.code, shown.err) == (0, "")
        return shown.out

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.fixture
def store(tmp_path: Path) -> Iterator[WorkingStore]:
    """The store of the command line."""
    (tmp_path / "home").mkdir()
    opened = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}")
    yield opened
    opened.close()


def test_without_a_store_nobody_works_and_nothing_waits(call: Call) -> None:
    """And none is made."""
    assert call("workers") == "no worker is alive; nsai-work worker starts one\n"
    assert json.loads(call("workers", "--json")) == []
    assert {row["ready"] for row in json.loads(call("queue", "--json"))["priorities"]} == {0}


def test_workers_with_their_load(call: Call, store: WorkingStore) -> None:
    """One that has stopped is shown with --all alone."""
    this = WorkerId.of_this_process()
    other = WorkerId.of_this_process()
    store.database.run(register_worker, this, version="1.2", backends={"fake": "a"}, declined={"peft": "no torch"})
    store.submit([command(), command()])
    store.database.run(register_worker, other, version="1.1", backends={"fake": "a"})
    store.database.run(worker_seen, str(other), stopped=True)
    store.claim(ClaimRequest(str(this), 1, 15.0, selection(backends={"fake": "a"})))

    (alive,) = json.loads(call("workers", "--json"))
    every = json.loads(call("workers", "--all", "--json"))
    assert (alive["id"], alive["alive"], alive["running"], alive["version"]) == (str(this), True, 1, "1.2")
    assert (alive["backends"], alive["declined"]) == ({"fake": "a"}, {"peft": "no torch"})
    assert {worker["id"]: worker["alive"] for worker in every} == {str(this): True, str(other): False}
    heading, row = call("workers").splitlines()
    assert heading.split() == ["ID", "ALIVE", "RUNNING", "HOST", "PID", "VERSION", "SEEN", "BACKENDS"]
    assert row.split()[1:3] == ["yes", "1"]


def test_the_queue_by_priority_limit_and_reason(call: Call, store: WorkingStore) -> None:
    """A job that is not due counts apart, and has no age."""
    waits = [command(backend="missing"), command(backend="missing", priority="offline")]
    later = command(constraints={"not_before": "2999-01-01T00:00:00Z"})
    store.submit([*waits, later])
    store.set_tenant_quota("acme", 3)

    state = json.loads(call("queue", "--json"))

    depths = {row["priority"]: (row["ready"], row["later"]) for row in state["priorities"]}
    assert depths == {"realtime": (0, 0), "interactive": (0, 0), "batch": (1, 1), "offline": (1, 0)}
    assert all((row["oldest_age_s"] > 0) == (row["ready"] > 0) for row in state["priorities"])
    (limit,) = state["limits"]
    assert (limit["scope"], limit["key"], limit["max_running"], limit["running"]) == ("tenant", "acme", 3, 0)
    assert {(wait["reason"], wait["jobs"]) for wait in state["waits"]} == {
        ("no worker is alive", 2),
        ("not before 2999-01-01T00:00:00+00:00", 1),
    }
    text = call("queue")
    assert "WAIT BECAUSE" in text
    assert "no worker is alive" in text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min 00 s"),
        (3_599, "59 min 59 s"),
        (3_600, "1 h 00 min"),
        (90_000, "1 d 01 h"),
    ],
)
def test_a_duration_has_its_two_largest_units(seconds: float, text: str) -> None:
    """At each border."""
    assert duration_text(seconds) == text
