"""Error messages on stderr."""

import errno
import json
import os

import pytest

from crucible.errors import BackendUnavailable, CrucibleError, InvalidRequest, UnknownBackend
from nsai_work.cli.output import error_report
from nsai_work.cli.output.error_report import describe_error, report_error
from nsai_work.errors import StoreUnavailable


def test_text_has_message_and_hint() -> None:
    """The hint follows the message."""
    text = describe_error(UnknownBackend("backend: no backend is called 'x'; known are: fake"))

    assert text.splitlines() == [
        "error: backend: no backend is called 'x'; known are: fake",
        "  hint: nsai-work backends lists the installed backends",
    ]


@pytest.mark.parametrize("kind", [StoreUnavailable, BackendUnavailable])
def test_the_hint_under_too_many_open_files_is_about_them(kind: type[CrucibleError]) -> None:
    """Whatever could not be opened: its address is not the reason."""
    [_, hint] = describe_error(kind(f"cannot connect: {os.strerror(errno.EMFILE)} (x://y)")).splitlines()

    assert hint.startswith("  hint: raise the number of files that a process may open (ulimit -n)")


def test_every_complaint_has_a_line() -> None:
    """Each invalid field has a line of its own."""
    assert describe_error(InvalidRequest("a: wrong\nb: wrong")) == "error: a: wrong\n       b: wrong"


def test_json_is_one_object_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    """stdout stays empty, so that scripts can parse it."""
    report_error(InvalidRequest.of("batch_size", -1, "at least 1"), as_json=True)

    captured = capsys.readouterr()
    error = json.loads(captured.err)["error"]
    assert captured.out == ""
    assert error["code"] == "invalid_request"
    assert error["details"]["field"] == "batch_size"


def test_control_characters_are_escaped() -> None:
    """Control characters, direction marks and lone surrogates are escaped."""
    text = describe_error(InvalidRequest("a\x1b[2J\u202eb\ud800\rc\nd: wrong"))

    assert text == "error: a\\x1b[2J\\u202eb\\ud800\\rc\n       d: wrong"


def test_long_messages_are_cut() -> None:
    """To 40 lines of 1,000 characters, counted before the lines are escaped."""
    text = describe_error(InvalidRequest("\n".join(["\x1b" + "x" * 1_000] * 42)))

    line = "\\x1b" + "x" * 999 + "... (1,001 characters)"
    assert text == "error: " + "\n       ".join([line] * 40 + ["... and 2 more lines"])


def test_a_message_at_the_limits_is_whole() -> None:
    """40 lines of 1,000 characters are shown in full."""
    text = describe_error(InvalidRequest("\n".join(["x" * 1_000] * 40)))

    assert text == "error: " + "\n       ".join(["x" * 1_000] * 40)


def test_only_what_is_shown_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Escaping a megabyte takes seconds, so the message is cut first."""
    escaped: list[int] = []
    monkeypatch.setattr(error_report, "plain_text", lambda text: escaped.append(len(text)) or text)

    error_report.describe_error(InvalidRequest("x" * 1_000_000))

    assert escaped == [len("x" * 1_000 + "... (1,000,000 characters)")]
