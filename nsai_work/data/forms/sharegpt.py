"""Conversations in ShareGPT's form: ``{"conversations": [{"from": ..., "value": ...}]}``."""

from collections.abc import Mapping
from typing import Any, Final

from pydantic import Field, field_validator

from crucible.values.record import Record
from crucible.values.suggestions import known_names
from nsai_work.data.example import Example
from nsai_work.data.forms.messages import RowMessage, RowTools, Weight, conversation, json_of, without_nulls
from nsai_work.data.problems import RowProblem
from nsai_work.payloads import TrainOn

ROLES: Final = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "function_call": "assistant",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}


_CALL: Final = 'a call is JSON: {"name": ..., "arguments": ...}'


class ShareGptTurn(Record):
    """A turn: its author and its text. ``weight`` and ``train`` are as in a message."""

    author: str = Field(alias="from")
    value: str
    weight: Weight | None = None
    train: bool | None = Field(default=None, strict=True)

    @field_validator("author")
    @classmethod
    def _known_author(cls, value: str) -> str:
        if value not in ROLES:
            raise ValueError(f"is unknown; {known_names(value, ROLES)}")
        return value


class ShareGptRow(Record):
    """A conversation. ``system`` precedes it; ``tools`` is a list, or its JSON text."""

    conversations: tuple[ShareGptTurn, ...] = Field(min_length=1)
    system: str | None = None
    tools: RowTools = ()
    weight: Weight = 1.0

    @field_validator("conversations", mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, list):
            return value
        return [without_nulls(turn) if isinstance(turn, Mapping) else turn for turn in value]

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem."""
        system = [{"role": "system", "content": self.system}] if self.system else []
        messages: list[dict[str, Any]] = []
        open_calls: list[str] = []
        for index, turn in enumerate(self.conversations):
            role, field = ROLES[turn.author], f"conversations[{index}].value"
            if not turn.value:
                raise RowProblem(f"{field} is empty", "it is non-empty text", field)
            message: dict[str, Any] = {
                "role": role,
                "content": turn.value,
                "weight": turn.weight,
                "train": turn.train,
            }
            if turn.author == "function_call":
                message |= {"content": "", "tool_calls": _calls(turn.value, len(messages), field)}
                open_calls = [call["id"] for call in message["tool_calls"]]
            elif role == "tool":
                if not open_calls:
                    raise RowProblem(f"{field} answers no function_call", "it follows one", field)
                message["tool_call_id"] = open_calls.pop(0)
            messages.append(message)
        parsed = [RowMessage.model_validate(message) for message in (*system, *messages)]
        return conversation(parsed, train_on, tools=self.tools, weight=self.weight)


def _calls(text: str, place: int, field: str) -> list[dict[str, Any]]:
    try:
        value = json_of(text)
    except ValueError:
        value = None
    calls: list[Any] = value if isinstance(value, list) else [value]
    if not calls or not all(isinstance(call, Mapping) and isinstance(call.get("name"), str) for call in calls):
        raise RowProblem(f"{field} is not a function call", _CALL, field)
    unknown = sorted({str(name) for call in calls for name in call} - {"name", "arguments"})
    if unknown:
        raise RowProblem(f"{field} has the unknown field {unknown[0]:.60}", _CALL, field)
    return [
        {"id": f"call_{place}_{number}", "name": call["name"], "arguments": call.get("arguments") or {}}
        for number, call in enumerate(calls)
    ]
