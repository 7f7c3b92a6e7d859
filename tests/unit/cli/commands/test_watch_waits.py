"""``nsai-work watch`` says why a job waits: by the order of what it reads, whatever the time that a poll takes."""

import io
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console
from sqlalchemy import update

from nsai_work.cli import main
from nsai_work.cli.commands.watch import SHOWN_AFTER_S, CurrentWait
from nsai_work.cli.output.job_view import PlainView
from nsai_work.client.follow import JobUpdate
from nsai_work.lifecycle import JobStatus
from nsai_work.presentation.progress import RunProgress
from nsai_work.store import ClaimRequest
from nsai_work.store.schema import jobs
from tests.rig import command
from tests.unit.cli.test_job_view import Event
from tests.working_store import WorkingStore, open_working_store, selection

NOW = datetime(2026, 1, 1, tzinfo=UTC)
WATCHED_ONCE = ("--timeout", "0")


class SetClock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> datetime:
        """The wall clock."""
        return NOW + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """The seconds since the start."""
        return self.seconds


def queued(reason: str | None, queued_at: datetime | None = NOW) -> JobUpdate:
    """A poll of a queued job."""
    return JobUpdate("job", JobStatus.QUEUED, [], reason, queued_at)


def test_a_wait_is_said_after_a_second() -> None:
    """Of a job that starts sooner nothing is said; a change of the reason is said at once, and its end."""
    clock, said = SetClock(), list[str | None]()
    wait = CurrentWait(said.append, clock)

    wait.observe(queued("busy"))
    assert said == []
    clock.seconds = SHOWN_AFTER_S
    wait.observe(queued("busy"))
    wait.observe(queued("no worker"))
    wait.observe(queued("no worker"))
    wait.observe(queued(None))
    assert said == ["busy", "no worker", None]


@pytest.mark.parametrize("queued_at", [NOW + timedelta(hours=1), None], ids=["a clock that is ahead", "unknown"])
def test_a_wait_that_is_seen_for_a_second_is_said(queued_at: datetime | None) -> None:
    """Also where the store's clock does not say how long the job has waited."""
    clock, said = SetClock(), list[str | None]()
    wait = CurrentWait(said.append, clock)
    wait.observe(queued("busy", queued_at))
    clock.seconds = SHOWN_AFTER_S
    wait.observe(queued("busy", queued_at))
    assert said == ["busy"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WorkingStore]:
    """The store of the command line."""
    url = f"sqlite:///{tmp_path}/jobs.db"
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", url)
    opened = open_working_store(url)
    yield opened
    opened.close()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[str], str]]:
    """What ``watch`` prints of a job that it reads a single time."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def watch(job_id: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nsai-work", "watch", job_id, *WATCHED_ONCE])
        with pytest.raises(SystemExit):
            main()
        return capsys.readouterr().out

    yield watch
    logging.root.handlers[:], logging.root.level = handlers, level


def test_the_first_look_says_why_a_job_has_waited(store: WorkingStore, watched: Callable[[str], str]) -> None:
    """Before anything else happens to it, though no event has said it."""
    job = command()
    store.submit([job])
    with store.database.transaction() as tx:
        earlier = {"queued_at": tx.now - timedelta(seconds=60), "created_at": tx.now - timedelta(seconds=60)}
        tx.connection.execute(update(jobs).where(jobs.c.id == job.id).values(earlier))

    assert watched(job.id).splitlines() == ["waiting: no worker is alive"]


def test_the_first_look_says_what_a_running_job_waits_for(
    store: WorkingStore, watched: Callable[[str], str]
) -> None:
    """A wait that is no event, as the second within half a minute, has its line after that of the claim."""
    store.submit([command()])
    (claim,) = store.claim(ClaimRequest("w", 1, 15.0, selection(backends={"fake": "fake"})))
    with store.database.transaction() as tx:
        own = jobs.c.id == claim.job_id
        tx.connection.execute(update(jobs).where(own).values(wait_reason="the service answered 429"))

    assert watched(claim.job_id).splitlines() == ["running", "waiting: the service answered 429"]


def test_a_wait_has_one_line() -> None:
    """Whether its event or the reason of the job comes first; once the job went on, the same wait is news."""
    out = io.StringIO()
    view = PlainView(Console(file=out), RunProgress())
    started, ended = Event("wait.started", {"reason": "away"}), Event("wait.ended", {"reason": "away"})

    view.show_wait("away")
    view.show(started)
    view.show_wait(None)
    view.show(ended)
    view.show(started)
    view.show_wait("away")
    view.show_wait("at its limit")

    assert out.getvalue().splitlines() == ["waiting: away", "goes on", "waiting: away", "waiting: at its limit"]
