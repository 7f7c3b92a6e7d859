"""Parser of model output into thinking, tool calls and text.

Tool calls have the form of Hermes and Qwen models, which ``ByteTokenizer`` uses too::

    <tool_call>
    {"name": "weather", "arguments": {"town": "Bonn"}}
    </tool_call>

Thinking precedes everything else, between ``<think>`` and ``</think>``; where the prompt ends with the opening tag,
the model generates only the closing one.
"""

import json
from dataclasses import dataclass
from typing import Any, Final

from crucible.prompt import ToolCall

THINK_START: Final = "<think>"
THINK_END: Final = "</think>"
CALL_START: Final = "<tool_call>"
CALL_END: Final = "</tool_call>"


@dataclass(frozen=True, slots=True)
class ParsedOutput:
    """The parts of a model's output. ``thinking`` is None without thinking; ``content`` is the remaining text."""

    content: str
    thinking: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()


def parse_output(text: str, *, thinks: bool, opened: bool, calls: bool, turn: int) -> ParsedOutput:
    """Parse thinking if the model ``thinks`` or the prompt has ``opened`` it, and tool calls if ``calls`` is set.

    Malformed calls remain text. A call without an id gets one made of ``turn`` and its position.
    """
    thinking, rest = _split_thinking(text, opened) if thinks or opened else (None, text)
    if not calls:
        return ParsedOutput(rest, thinking)
    content, tool_calls = _split_calls(rest, turn)
    return ParsedOutput(content, thinking, tool_calls)


def _split_thinking(text: str, opened: bool) -> tuple[str | None, str]:
    body = text.lstrip()
    if body.startswith(THINK_START):
        body = body.removeprefix(THINK_START)
    elif not opened:
        return None, text
    thought, _, rest = body.partition(THINK_END)
    return thought.strip("\n"), rest.lstrip("\n")


def _split_calls(text: str, turn: int) -> tuple[str, tuple[ToolCall, ...]]:
    tool_calls: list[ToolCall] = []
    kept: list[str] = []
    position = 0
    while (start := text.find(CALL_START, position)) >= 0:
        parsed = _parse_call(text, start + len(CALL_START), tool_calls, turn)
        if parsed is None:
            end = start + len(CALL_START)
            kept.append(text[position:end])
        else:
            call, end = parsed
            kept.append(text[position:start])
            tool_calls.append(call)
        position = end
    kept.append(text[position:])
    content = "".join(kept)
    return (content.strip() if tool_calls else content), tuple(tool_calls)


def _parse_call(text: str, position: int, earlier: list[ToolCall], turn: int) -> tuple[ToolCall, int] | None:
    """Parse the call at a position; return it with its end, or None if it is malformed."""
    try:
        value, end = _DECODER.raw_decode(text, _skip_space(text, position))
        end = _skip_space(text, end)
        if not text.startswith(CALL_END, end) or not isinstance(value, dict):
            return None
        call = _call_of(value, earlier, turn)
    except (ValueError, RecursionError):
        return None
    return None if call is None else (call, end + len(CALL_END))


def _call_of(value: dict[str, Any], earlier: list[ToolCall], turn: int) -> ToolCall | None:
    name, arguments, call_id = value.get("name"), value.get("arguments", {}), value.get("id")
    if not isinstance(name, str) or not isinstance(arguments, dict):
        return None
    taken = {call.id for call in earlier}
    if not isinstance(call_id, str) or not call_id or call_id in taken:
        call_id = f"call-{turn}-{len(earlier)}"
        while call_id in taken:
            call_id += "x"
    return ToolCall(id=call_id, name=name, arguments=arguments)


def _skip_space(text: str, position: int) -> int:
    while position < len(text) and text[position].isspace():
        position += 1
    return position


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
