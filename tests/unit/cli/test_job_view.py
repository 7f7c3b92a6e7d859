"""Views of a job: progress, event texts, the bar and the plain lines."""

import io
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue
from rich.console import Console
from rich.text import Text

from nsai_work.cli.output.job_view import BarView, PlainView, metrics_text, view_for
from nsai_work.presentation.event_text import describe_event
from nsai_work.presentation.progress import RunProgress


@dataclass(frozen=True)
class Event:
    """An event of the store."""

    name: str
    data: Mapping[str, JsonValue] = field(default_factory=dict)
    seq: int = 1
    at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


def step(number: int, loss: float = 1.5) -> Event:
    """A step of a run of ten."""
    return Event("step", {"step": number, "total_steps": 10, "loss": loss, "tokens_per_s": 1234.5})


CORRUPTED = [
    Event("job.queued", {"from": "pending"}),
    Event("job.running", {"attempt": 1, "worker_id": "w"}),
    Event("resume.fresh", {"run_id": "r1", "from_step": 0}),
    *(step(number) for number in range(1, 7)),
    Event("checkpoint.committed", {"step": 5, "path": "tinker://r1/weights/5", "metric": 1.5}),
    Event("tinkex.recovery.detected", {"reason": "flagged"}),
    Event("tinkex.recovery.checkpoint_selected", {"path": "tinker://r1/weights/5", "step": 5}),
    Event("resume.restored", {"run_id": "r2", "from_step": 5}),
]


def test_a_restore_sets_the_progress_back() -> None:
    """A restore sets the progress back to the step of the checkpoint."""
    progress = RunProgress()
    for event in CORRUPTED:
        progress.update(event)

    assert (progress.status, progress.done, progress.total) == ("running", 5, 10)
    assert (progress.checkpoints, progress.recoveries) == (1, 1)
    assert metrics_text(progress) == "loss 1.5000  1,234 tok/s  1 ckpt  1 recovered"


def test_plain_lines_report_the_recovery_without_escapes() -> None:
    """Piped output contains the recovery in plain text."""
    out = io.StringIO()
    with PlainView(Console(file=out), RunProgress(total=10)) as view:
        for event in CORRUPTED:
            view.show(event)

    text = out.getvalue()
    assert "\x1b" not in text
    assert "the run is corrupted: flagged" in text
    assert "resumed from step 5 in new remote run r2" in text
    assert text.index("step 6/10") < text.index("corrupted")


def test_the_number_of_plain_lines_is_bounded() -> None:
    """A run of 10,000 steps has about 20 lines, including its last step."""
    out = io.StringIO()
    with PlainView(Console(file=out), RunProgress(total=10_000)) as view:
        for number in range(1, 10_001):
            view.show(Event("step", {"step": number, "total_steps": 10_000, "loss": 1.0}))

    lines = out.getvalue().splitlines()
    assert len(lines) <= 22
    assert lines[-1].startswith("step 10000/10000")


def test_a_slow_run_is_not_silent() -> None:
    """Steps of a large model take long: there is a line every half minute, and the first event that is shown."""
    out = io.StringIO()
    with PlainView(Console(file=out), RunProgress(total=10_000)) as view:
        view.catch_up(step(6))
        for number in range(7, 16):
            at = datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=10 * number)
            view.show(Event("step", {"step": number, "total_steps": 10_000, "loss": 1.0}, at=at))

    assert [line.split()[1] for line in out.getvalue().splitlines()] == ["7/10000", "10/10000", "13/10000"]


def test_a_count_that_did_not_change_is_one_line() -> None:
    """Reports of a batch may come at the same count."""
    out = io.StringIO()
    with PlainView(Console(file=out), RunProgress()) as view:
        for done in (0, 4, 4, 4, 6, 6):
            view.show(Event("inference.progress", {"done": done, "total": 6, "failed": 0}))

    assert out.getvalue().splitlines() == ["rows 0/6", "rows 4/6", "rows 6/6"]


def test_a_narrow_terminal_cuts_texts_and_no_numbers() -> None:
    """The count and the time are whole at 60 columns."""
    console = Console(file=io.StringIO(), force_terminal=True, width=60, legacy_windows=False)
    view = BarView(console, RunProgress(total=100))
    view.catch_up(Event("job.running", {"attempt": 1}))
    for number in range(1, 5):
        view.catch_up(Event("checkpoint.committed", {"step": number, "path": "p", "metric": 1.5}))
    view.show(Event("step", {"step": 99, "total_steps": 100, "loss": 0.0257, "tokens_per_s": 13_743.0}))
    with console.capture() as capture:
        console.print(view._bar.get_renderable())

    [line] = Text.from_ansi(capture.get()).plain.splitlines()
    assert " 99/100 " in line
    assert re.search(r"\d:\d\d:\d\d$|-:--:--$", line.rstrip())
    assert len(line) <= 60


def test_a_terminal_gets_a_bar() -> None:
    """The bar has the step and the loss; event texts are above it."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=120)
    view = view_for(console, total=10)
    assert isinstance(view, BarView)
    with view:
        for event in CORRUPTED:
            view.show(event)

    text = out.getvalue()
    assert "5/10" in text
    assert "loss 1.5000" in text
    assert "the run is corrupted" in text


def test_text_of_a_service_is_not_markup() -> None:
    """Brackets in a reason are shown unchanged."""
    out = io.StringIO()
    with BarView(Console(file=out, force_terminal=True, width=200), RunProgress()) as view:
        view.show(Event("tinkex.recovery.detected", {"reason": "[/bold] [link=x]"}))

    assert "[/bold] [link=x]" in out.getvalue()


names = st.one_of(
    st.sampled_from([event.name for event in CORRUPTED]),
    st.sampled_from(["resume.cold", "resume.warm", "job.failed", "inference.progress", "fake.recovery.failed"]),
    st.text(max_size=30),
)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
keys = st.sampled_from(
    ["step", "loss", "total_steps", "tokens_per_s", "reason", "error", "from_step", "metric", "from"]
)


@given(st.lists(st.builds(Event, names, st.dictionaries(keys, values)), max_size=20))
def test_no_event_breaks_the_view(events: list[Event]) -> None:
    """Events of newer workers and of plug-ins raise no error."""
    progress = RunProgress()
    for event in events:
        progress.update(event)
        describe_event(event)
        metrics_text(progress)


@pytest.mark.parametrize("name", ["step", "checkpoint.deleted", "something.new"])
def test_events_without_a_line(name: str) -> None:
    """Steps are shown by the bar; unknown events only by --json."""
    assert describe_event(Event(name)) is None
