"""Tool calls of an answer: whole, or joined from the pieces of a stream. Servers differ in indexes and ids."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from backends.openai.wire import WireCall, malformed
from crucible.completion import ToolCall
from crucible.stream import ToolCallDelta


def calls_of(wires: Iterable[WireCall | None], backend: str) -> tuple[ToolCall, ...]:
    """Convert the calls of a whole answer. A missing or repeated id is replaced."""
    calls: list[ToolCall] = []
    taken: set[str] = set()
    for wire in wires:
        if wire is None or (wire.id is None and wire.function is None):
            continue
        function = wire.function
        if function is None or not function.name:
            raise _nameless(len(calls), backend)
        call_id = _unique(wire.id, len(calls), taken)
        calls.append(ToolCall(id=call_id, name=function.name, arguments=_text(function.arguments)))
    return tuple(calls)


@dataclass(slots=True)
class _OpenCall:
    position: int
    index: int | None
    wire_id: str | None = None
    name: str | None = None
    arguments: str = ""
    has_id: bool = False


class CallJoiner:
    """Assigns the pieces of one answer's tool calls to calls.

    A piece belongs to the last call with its index. It begins a new one if it has another id, another name, or a
    name again after complete arguments: some servers send index 0 or null for all calls, or no ids.
    """

    def __init__(self, backend: str) -> None:
        self._backend = backend
        self._calls: list[_OpenCall] = []
        self._taken: set[str] = set()

    @property
    def any(self) -> bool:
        """There is a call."""
        return bool(self._calls)

    def add(self, wire: WireCall | None) -> Iterator[ToolCallDelta]:
        """Yield the piece with the position of its call; nothing for an empty one."""
        if wire is None or (wire.id is None and wire.function is None):
            return
        name = wire.function.name or None if wire.function else None
        arguments = _text(wire.function.arguments) if wire.function else ""
        call = self._call_of(wire, name)
        new_id = None
        if wire.id and not call.has_id:
            call.wire_id, call.has_id = wire.id, True
            new_id = _unique(wire.id, call.position, self._taken)
        new_name = name if call.name is None else None
        call.name = call.name or name
        call.arguments += arguments
        yield ToolCallDelta(position=call.position, id=new_id, name=new_name, arguments=arguments)

    def closing(self) -> Iterator[ToolCallDelta]:
        """Yield the ids of calls that came without one. Raises MalformedAnswer for a call without a name."""
        for call in self._calls:
            if call.name is None:
                raise _nameless(call.position, self._backend)
            if not call.has_id:
                call.has_id = True
                yield ToolCallDelta(
                    position=call.position, id=_unique(None, call.position, self._taken), arguments=""
                )

    def _call_of(self, wire: WireCall, name: str | None) -> _OpenCall:
        found = self._candidate(wire)
        if found is None or _begins_anew(found, wire, name):
            found = _OpenCall(len(self._calls), wire.index)
            self._calls.append(found)
        return found

    def _candidate(self, wire: WireCall) -> _OpenCall | None:
        for call in reversed(self._calls):
            if wire.index is None or call.index == wire.index:
                return call
        return None


def _begins_anew(call: _OpenCall, wire: WireCall, name: str | None) -> bool:
    if wire.id and call.wire_id and wire.id != call.wire_id:
        return True
    if name is None or call.name is None:
        return False
    return name != call.name or _is_complete(call.arguments)


def _is_complete(arguments: str) -> bool:
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return False
    return True


def _unique(call_id: str | None, position: int, taken: set[str]) -> str:
    if not call_id or call_id in taken:
        call_id = f"call-{position}"
        while call_id in taken:
            call_id += "x"
    taken.add(call_id)
    return call_id


def _text(arguments: object) -> str:
    if arguments is None:
        return ""
    return arguments if isinstance(arguments, str) else json.dumps(arguments)


def _nameless(position: int, backend: str) -> Exception:
    return malformed(f"tool call {position} has no name", backend)
