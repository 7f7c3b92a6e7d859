"""Errors as messages."""

import json

import pytest

from crucible.errors import InvalidRequest, UnknownBackend
from nsai_work.cli.report import describe_error, report_error


def test_text_has_the_message_and_what_to_do() -> None:
    """A person reads what was wrong, then what helps."""
    text = describe_error(UnknownBackend("backend: no backend is called 'x'; known are: fake"))

    assert text.splitlines() == [
        "error: backend: no backend is called 'x'; known are: fake",
        "  hint: nsai-work backends lists what is installed",
    ]


def test_every_complaint_has_a_line() -> None:
    """Several wrong fields are all shown, each on a line of its own."""
    assert describe_error(InvalidRequest("a: wrong\nb: wrong")) == "error: a: wrong\n       b: wrong"


def test_json_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """A script parses the error; stdout stays free for data."""
    report_error(InvalidRequest.of("batch_size", -1, "at least 1"), as_json=True)

    captured = capsys.readouterr()
    error = json.loads(captured.err)["error"]
    assert captured.out == ""
    assert error["code"] == "invalid_request"
    assert error["details"]["field"] == "batch_size"


def test_text_of_others_cannot_play_with_the_terminal() -> None:
    """Escape sequences, direction marks and lone surrogates are shown as escapes."""
    text = describe_error(InvalidRequest("a\x1b[2J\u202eb\ud800\rc\nd: wrong"))

    assert text == "error: a\\x1b[2J\\u202eb\\ud800\\rc\n       d: wrong"


def test_a_megabyte_is_not_repeated() -> None:
    """What is too long for anybody to read is cut, and so is a list of thousands of complaints."""
    text = describe_error(InvalidRequest("\n".join(["x" * 1_000_000] * 1_000)))

    assert len(text) < 60_000
    assert "(1,000,000 characters)" in text
    assert text.endswith("... and 960 more")
