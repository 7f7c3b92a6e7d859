"""Whatever text comes from outside, no command lets it act on a terminal."""

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nsai_work.cli
from crucible import Choice, Completion, Message
from crucible.prompt import ToolCall
from crucible.rendering.plain_text import plain_json, plain_line, plain_text
from nsai_work.cli.commands import complete
from nsai_work.cli.output.stdout import write_fields, write_json, write_line, write_table

HOSTILE = "\x1b[2J\x1b]0;owned\x07\x9b31m\u202egnp.exe\r\b\x00"
ACTS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")


@given(st.text() | st.text(alphabet=list(HOSTILE + "ab\n\t")))
def test_escaped_text_has_nothing_that_acts(text: str) -> None:
    """JSON keeps its meaning; a line stays one."""
    assert not ACTS.search(plain_text(text))
    assert "\n" not in plain_line(text)
    assert not ACTS.search(plain_json(json.dumps(text, ensure_ascii=False)))
    assert json.loads(plain_json(json.dumps(text, ensure_ascii=False))) == text


def test_all_ways_to_write_are_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    """Lines, tables, fields and JSON, on both streams."""
    write_line(HOSTILE)
    write_line(HOSTILE, err=True)
    write_table(["a"], [[HOSTILE]], if_empty="none")
    write_fields([("a", HOSTILE)])
    write_json({"a": HOSTILE})

    for text in capsys.readouterr():
        assert "owned" in text
        assert not ACTS.search(text)


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
def test_a_completion_is_escaped_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch, terminal: bool) -> None:
    """A file or a pipe gets what the model wrote, with its lines and tabs."""
    call: Any = ToolCall(id="a", name="b", arguments=HOSTILE)
    message = Message(role="assistant", content=f"a\tb\n{HOSTILE}", tool_calls=(call,))
    stdout = io.StringIO()
    monkeypatch.setattr(stdout, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdout", stdout)

    complete._write_answer(Completion(choices=(Choice(message=message),)))

    assert stdout.getvalue().startswith("a\tb\n")
    assert bool(ACTS.search(stdout.getvalue())) is not terminal


def test_commands_write_through_these_functions() -> None:
    """No module of the command line writes in another way, which would not escape."""
    folder = Path(next(iter(nsai_work.cli.__path__)))
    found = {
        path.name for path in folder.rglob("*.py") if re.search(r"\becho\(|\bprint\(.*\bfile=", path.read_text())
    }

    assert found <= {"app.py", "stdout.py"}  # the first prints the version
