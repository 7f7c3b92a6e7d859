"""Hooks and logs."""

import logging

import pytest

from nsai_work.telemetry.job_events import JobEvent, add_hook, emit, log_entry

EVENT = JobEvent("job.claimed", "id", "tool_call", "fake", 1, 1, {"reason": "a b"})


def test_a_hook_gets_the_record(caplog: pytest.LogCaptureFixture) -> None:
    """The same record goes to hooks and to the log; a hook that raises harms nobody."""
    seen: list[JobEvent] = []

    def broken(event: JobEvent) -> None:
        raise ZeroDivisionError

    removals = [add_hook(broken), add_hook(seen.append)]
    with caplog.at_level(logging.INFO):
        emit(EVENT)
    for remove in removals:
        remove()
    emit(EVENT)

    assert seen == [EVENT]
    messages = [record.getMessage() for record in caplog.records]
    assert 'job.claimed job_id=id kind=tool_call backend=fake fence=1 attempt=1 reason="a b"' in messages
    assert any(message.startswith("telemetry.hook_failed") for message in messages)


def test_a_library_is_silent_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    """Who only imports us sees nothing on stdout or stderr."""
    emit(EVENT)

    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("name", "level"),
    [
        ("training.incident", "WARNING"),
        ("tinkex.recovery.detected", "WARNING"),
        ("recovery.failed", "WARNING"),
        ("tinkex.recovery.completed", "INFO"),
        ("resume.cold", "WARNING"),
        ("resume.warm", "INFO"),
        ("wait.started", "WARNING"),
        ("wait.ended", "INFO"),
        ("inference.progress", None),
    ],
)
def test_incidents_and_recoveries_are_logged(
    name: str, level: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """With the id of the job, whatever fields the entry has."""
    with caplog.at_level(logging.INFO):
        log_entry("id", name, {"event": "x", "level": 3, "reason": "a b", "job_id": "other", "name": "n"})

    assert [record.levelname for record in caplog.records] == ([] if level is None else [level])
    for record in caplog.records:
        assert record.getMessage() == f'{name} level=3 reason="a b" job_id=id name=n'


@pytest.mark.parametrize("name", ["job.failed", "job.timeout", "job.retried", "job.lost", "job.abandoned"])
def test_a_bad_end_of_an_attempt_is_a_warning(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Others are information."""
    with caplog.at_level(logging.WARNING):
        emit(JobEvent(name, "id", "tool_call", "fake", 1, 1))
        emit(EVENT)

    assert [record.levelname for record in caplog.records] == ["WARNING"]
