"""The log of a command that shows its jobs says nothing twice."""

import logging
from collections.abc import Iterator

import pytest

from nsai_work.cli.output.shown_events import log_without_shown_events
from nsai_work.telemetry.logs import get_logger


class Kept(logging.Handler):
    """Keeps the texts of records."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a text."""
        self.texts.append(record.getMessage())


@pytest.fixture
def log() -> Iterator[Kept]:
    """The log of the process."""
    handler = Kept()
    logging.getLogger().addHandler(handler)
    yield handler
    logging.getLogger().removeHandler(handler)


def test_what_the_view_shows_is_not_logged_too(log: Kept) -> None:
    """What it has no line for is; so is all of it afterwards."""
    ours = get_logger("nsai_work.test")
    with log_without_shown_events():
        ours.warning("job.failed", job_id="1", reason="x")
        ours.warning("tinkex.recovery.detected", job_id="1", reason="x")
        ours.warning("worker.unhealthy", job_id="1")
        ours.warning("job.failed", reason="of no job of ours")
        logging.getLogger("another").warning("job.failed")
    ours.warning("job.failed", job_id="2")

    expected = [
        "worker.unhealthy job_id=1",
        'job.failed reason="of no job of ours"',
        "job.failed",
        "job.failed job_id=2",
    ]
    assert log.texts == expected
