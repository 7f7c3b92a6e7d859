"""Hooks and logs."""

import logging

import pytest

from nsai_work.telemetry import JobEvent, add_hook, emit

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
