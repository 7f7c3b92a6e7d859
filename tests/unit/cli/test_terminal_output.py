"""Whatever text comes from outside, no command lets it act on a terminal."""

import io
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import nsai_work.cli
from crucible import Choice, Completion, FinishReason, Message
from crucible.prompt import ToolCall
from crucible.rendering.plain_text import plain_json, plain_line, plain_text
from crucible.stream import DeltaEvent, StreamEvent, events_of
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
    write_table([HOSTILE], [[HOSTILE]], if_empty="none")
    write_fields([(HOSTILE, HOSTILE)])
    write_json({"a": HOSTILE})

    for text in capsys.readouterr():
        assert "owned" in text
        assert not ACTS.search(text)


def streamed(completion: Completion) -> None:
    """Write a completion as it comes: text and refusal character by character, and the rest."""
    pieces: list[StreamEvent] = []
    for event in events_of(completion):
        parts = [(name, getattr(event, name, None)) for name in ("text", "refusal")]
        changes = [{name: piece} for name, text in parts if isinstance(event, DeltaEvent) for piece in text or ""]
        pieces += [event.model_copy(update=change) for change in changes] or [event]
    complete._write_stream(event.model_copy(update={"seq": place}) for place, event in enumerate(pieces))


@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "pipe"])
@pytest.mark.parametrize("write", [complete._write_answer, streamed], ids=["whole", "streamed"])
@pytest.mark.parametrize("field", ["content", "refusal", "tool call"])
def test_a_completion_is_escaped_on_a_terminal_alone(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, write: Callable[[Completion], None], field: str
) -> None:
    """A file or a pipe gets what the model wrote, with its lines and tabs; so it does piece by piece."""
    text = f"a\tb\n{HOSTILE}"
    calls = (ToolCall.model_validate({"id": "a", "name": "b", "arguments": text}),) if field == "tool call" else ()
    texts: dict[str, Any] = {"content": None} if calls else {"content": None, field: text}
    message = Message(role="assistant", tool_calls=calls, **texts)
    stdout = io.StringIO()
    monkeypatch.setattr(stdout, "isatty", lambda: terminal)
    monkeypatch.setattr("sys.stdout", stdout)

    write(Completion(choices=(Choice(message=message, finish_reason=FinishReason.STOP),)))

    begin = "\n[tool call] b " if calls else ""
    assert stdout.getvalue() == begin + (plain_text(text) if terminal else text) + "\n"
    assert bool(ACTS.search(stdout.getvalue())) is not terminal


def test_commands_write_through_these_functions() -> None:
    """No module of the command line writes in another way, which would not escape."""
    folder = Path(next(iter(nsai_work.cli.__path__)))
    found = {
        path.name for path in folder.rglob("*.py") if re.search(r"\becho\(|\bprint\(.*\bfile=", path.read_text())
    }

    assert found <= {"app.py", "stdout.py"}  # the first prints the version
