"""``nsai-work complete`` says when an answer is not complete, whole or streamed."""

import io
from collections.abc import Callable

import pytest

from crucible import Choice, Completion, FinishReason, Message
from crucible.stream import events_of
from nsai_work.cli.commands import complete

WRITE: dict[str, Callable[[Completion], None]] = {
    "whole": complete._write_answer,
    "streamed": lambda completion: complete._write_stream(events_of(completion)),
}
REASONS: tuple[FinishReason | None, ...] = (*FinishReason, None)


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
@pytest.mark.parametrize("reason", REASONS)
def test_an_answer_that_is_not_complete_is_said_to_be_so(
    capsys: pytest.CaptureFixture[str], write: Callable[[Completion], None], reason: FinishReason | None
) -> None:
    """On stderr, so that stdout is the answer alone."""
    if reason is None and write is WRITE["streamed"]:
        pytest.skip("the end of a streamed answer has a reason")
    message = Message(role="assistant", content="An answer")
    write(Completion(choices=(Choice(message=message, finish_reason=reason),)))

    out, err = capsys.readouterr()
    assert out == "An answer\n"
    is_complete = reason is not None and reason.is_complete
    assert err == ("" if is_complete else f"warning: {complete.INCOMPLETE[reason and reason.value]}\n")


@pytest.mark.parametrize("write", WRITE.values(), ids=WRITE)
def test_a_refusal_is_printed(capsys: pytest.CaptureFixture[str], write: Callable[[Completion], None]) -> None:
    """Its text is in the place of an answer."""
    message = Message(role="assistant", content=None, refusal="I cannot help with that.")
    choice = Choice(message=message, finish_reason=FinishReason.REFUSAL, raw_finish_reason="declined")
    write(Completion(choices=(choice,)))

    out, err = capsys.readouterr()
    assert out == "I cannot help with that.\n"
    assert err == "warning: the model refused to answer (declined)\n"


@pytest.mark.parametrize("text", ["Hi", "Hi\n", "Hi\r\n"])
def test_the_newline_at_the_end_of_stdin_is_not_sent(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """echo writes one, and a model may answer another prompt otherwise; any others are the user's."""
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    assert complete._read_prompt("-") == "Hi"
    monkeypatch.setattr("sys.stdin", io.StringIO("\n" + text + "\n\n"))
    assert complete._read_prompt("-") == "\n" + text + "\n"
