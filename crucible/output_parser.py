"""What a model said, taken apart: its thinking, the tools it calls, and the rest.

Tool calls have the form that Hermes and Qwen models write and that ``ByteTokenizer`` uses too::

    <tool_call>
    {"name": "weather", "arguments": {"town": "Bonn"}}
    </tool_call>

Thinking stands at the beginning, between ``<think>`` and ``</think>``; where the template has opened it already,
the model writes only the end.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from crucible.prompt import ToolCall

THINK: Final = "<think>"
THOUGHT: Final = "</think>"
CALL: Final = "<tool_call>"
CALLED: Final = "</tool_call>"


@dataclass(frozen=True, slots=True)
class Spoken:
    """``thinking`` is None where there was none. ``content`` is what is left."""

    content: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def take_apart(text: str, *, thinks: bool, opened: bool, calls: bool, turn: int) -> Spoken:
    """Look for thinking if it is expected (``thinks``) or already ``opened``, and for tool calls if there may be
    ``calls``. What is not well formed stays text. Calls without an id get one made of ``turn`` and their place."""
    thinking, rest = _thought(text, opened) if thinks or opened else (None, text)
    if not calls:
        return Spoken(rest, thinking)
    content, found = _calls(rest, turn)
    return Spoken(content, thinking, found)


def _thought(text: str, opened: bool) -> tuple[str | None, str]:
    body = text.lstrip()
    if body.startswith(THINK):
        body = body.removeprefix(THINK)
    elif not opened:
        return None, text
    thought, _, rest = body.partition(THOUGHT)
    return thought.strip("\n"), rest.lstrip("\n")


def _calls(text: str, turn: int) -> tuple[str, tuple[ToolCall, ...]]:
    found: list[ToolCall] = []
    kept: list[str] = []
    at = 0
    while (start := text.find(CALL, at)) >= 0:
        read = _read(text, start + len(CALL), found, turn)
        if read is None:
            end = start + len(CALL)
            kept.append(text[at:end])
        else:
            call, end = read
            kept.append(text[at:start])
            found.append(call)
        at = end
    kept.append(text[at:])
    content = "".join(kept)
    return (content.strip() if found else content), tuple(found)


def _read(text: str, at: int, earlier: list[ToolCall], turn: int) -> tuple[ToolCall, int] | None:
    """The call that begins at a place and where it ends, or None if it is none."""
    try:
        value, end = _DECODER.raw_decode(text, _after_space(text, at))
        end = _after_space(text, end)
        if not text.startswith(CALLED, end) or not isinstance(value, dict):
            return None
        call = _call(value, earlier, turn)
    except (ValueError, RecursionError):
        return None
    return None if call is None else (call, end + len(CALLED))


def _call(value: dict[str, Any], earlier: list[ToolCall], turn: int) -> ToolCall | None:
    name, arguments, given = value.get("name"), value.get("arguments", {}), value.get("id")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    taken = {call.id for call in earlier}
    made = f"call-{turn}-{len(earlier)}"
    while made in taken:
        made += "x"
    chosen = given if isinstance(given, str) and given and given not in taken else made
    return ToolCall(id=chosen, name=name, arguments=arguments)


def _after_space(text: str, at: int) -> int:
    while at < len(text) and text[at].isspace():
        at += 1
    return at


def _no_constant(word: str) -> Any:
    raise ValueError(f"{word} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_no_constant)
