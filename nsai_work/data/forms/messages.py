"""Conversations in the form of OpenAI's API: ``{"messages": [...], "tools": [...]}``."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import (
    AliasChoices,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)
from typing_extensions import TypedDict

from crucible.prompt import AudioPart, ImagePart, Message, Prompt, Role, TextPart, Tool, ToolResultPart
from crucible.rendering.chat import tool_form, turns_of
from crucible.rendering.media import decode_image
from crucible.rendering.tokenizer import TurnWeight
from crucible.values.record import MAX_TEXT_LENGTH, Record
from nsai_work.data.example import Example
from nsai_work.data.forms.train_on import usual_weights
from nsai_work.data.images import ExampleImage, is_address, measured
from nsai_work.data.problems import RowProblem
from nsai_work.files.json_text import RepeatedField, decode_json
from nsai_work.payloads import TrainOn

Weight: TypeAlias = Annotated[float, Field(ge=0, le=1e6, strict=True)]


def json_of(text: str) -> object:
    """Decode JSON text. Raises ValueError."""
    try:
        return decode_json(text)
    except RepeatedField as error:
        raise ValueError(f"is JSON that {error}") from None
    except (ValueError, RecursionError):
        raise ValueError("is text that is not JSON") from None


def _tools_of_text(value: object) -> object:
    # columns of data sets hold them as text, empty where a row has none
    return (json_of(value) if value.strip() else ()) if isinstance(value, str) else value


RowTools: TypeAlias = Annotated[tuple[Tool, ...], BeforeValidator(_tools_of_text)]
"""The tools of a row: a list, or its JSON text."""


class RowTextPart(TextPart):
    """A text part with a loss weight of its own, in the place of the message's."""

    weight: Weight | None = None


class RowImagePart(ImagePart):
    """An image of a row: a data: URL, base64, or the path of a file beside the data."""

    path: str | None = Field(default=None, min_length=1, validation_alias=AliasChoices("path", "image"))

    @model_validator(mode="after")
    def _valid_image(self) -> Self:
        if sum(source is not None for source in (self.url, self.base64, self.path)) != 1:
            raise ValueError("an image has one of url, base64 and path")
        if self.url is not None and is_address(self.url) and not self.url.startswith("data:"):
            shown = self.url if len(self.url) <= 60 else self.url[:57] + "..."
            raise ValueError(f"url {shown!r} is not fetched; give a data: URL, or a path beside the data file")
        if self.detail not in (None, "auto"):
            raise ValueError("detail has no effect on training; leave it out")
        if self.url is not None and self.url.startswith("data:"):
            head, _, text = self.url.partition(",")
            if not head.startswith("data:image/") or not head.endswith(";base64"):
                raise ValueError(
                    "a data: URL of an image is data:image/png;base64,... or data:image/jpeg;base64,..."
                )
            decode_image(text, head.removeprefix("data:").removesuffix(";base64"))
        elif self.base64 is not None:
            decode_image(self.base64, self.media_type)
        if self.media_type is not None and self.base64 is None:
            raise ValueError("media_type is that of base64; a file says itself what it is; leave it out")
        return self

    def example_image(self, place: str) -> ExampleImage:
        """Return the image of an example; ``place`` is the field in the row. Raises RowProblem."""
        if self.path is not None or (self.url is not None and not is_address(self.url)):
            return ExampleImage(place, name=self.path or self.url)
        data = decode_image(self.base64 or str(self.url).partition(",")[2], None)
        return measured(ExampleImage(place, data=data), data)


RowPart: TypeAlias = Annotated[RowTextPart | RowImagePart | AudioPart | ToolResultPart, Field(discriminator="type")]


class RowMessage(Message):
    """A message of a row. ``weight`` is its loss weight; ``train`` true or false means 1 or 0. ``prefill`` is text
    that begins an assistant's answer and is given, not trained."""

    content: str | tuple[RowPart, ...] | None = None
    weight: Weight | None = None
    train: bool | None = Field(default=None, validation_alias=AliasChoices("train", "trainable"), strict=True)
    prefill: str | None = Field(default=None, min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: object) -> object:
        if not isinstance(value, Mapping):
            return value
        found = without_nulls(value)
        content = found.get("content")
        if isinstance(content, list):
            parts = [without_nulls(part) if isinstance(part, Mapping) else part for part in content]
            thoughts = [part for part in parts if isinstance(part, Mapping) and part.get("type") in _THOUGHTS]
            found["content"] = [part for part in parts if part not in thoughts] or ""
            if thoughts:
                if any(found.get(name) for name in ("thinking", "reasoning_content", "reasoning")):
                    raise ValueError("thinking is given twice: as a part, and as a field")
                found["thinking"] = "".join(_thought(part) for part in thoughts)
        return found

    @model_validator(mode="after")
    def _valid_training_fields(self) -> Self:
        if self.weight is not None and self.train is not None:
            raise ValueError("weight and train say the same; set one of them")
        if self.refusal is not None and self.text() != self.refusal:
            raise ValueError("refusal is the text of an answer without content; leave one of them out")
        if self.prefill is not None and (self.role is not Role.ASSISTANT or self.text() == ""):
            raise ValueError("prefill begins the content of an assistant's message, and needs one")
        empty = not self.text() and not any(not isinstance(part, TextPart) for part in self.parts())
        if empty and not (self.role is Role.ASSISTANT and (self.tool_calls or self.thinking)):
            raise ValueError(f"content is {'missing' if self.content is None else 'empty'}; it is non-empty text")
        if any(isinstance(part, AudioPart) for part in self.parts()):
            raise ValueError("content has an audio part; training takes text and images, on every backend")
        has_image = any(isinstance(part, ImagePart) for part in self.parts())
        if has_image and self.role is not Role.USER:
            raise ValueError(f"an image needs role user, not {self.role.value}")
        if has_image and any(_weight_of(part) is not None for part in self.parts()):
            raise ValueError("a part beside an image has no weight of its own; give the message one")
        if self.role is Role.TOOL and any(_weight_of(part) is not None for part in self.parts()):
            raise ValueError("a part of a tool's result has no weight of its own; give the message one")
        return self

    def weights(self, usual: TurnWeight) -> TurnWeight:
        """Return the loss weights of the turn; ``usual`` are those of a message that says nothing of its own."""
        own = self.weight if self.weight is not None else None if self.train is None else float(self.train)
        output = usual.output if own is None else own
        header = usual.header if own is None or usual.header == 0 else own
        return TurnWeight(output, header, tuple(self._spans(output)))

    def _spans(self, output: float) -> Iterator[tuple[int, int, float]]:
        begin = 0
        if self.prefill is not None:
            begin = len(self.prefill)
            yield 0, begin, 0.0
        for part in self.parts():
            end = begin + len(part.text) if isinstance(part, TextPart) else begin
            weight = _weight_of(part)
            if weight is not None and weight != output:
                yield begin, end, weight
            begin = end


_THOUGHTS: Final = ("thinking", "reasoning")


def _thought(part: Mapping[str, Any]) -> str:
    kind = str(part["type"])
    text = part.get(kind, part.get("text"))
    if not isinstance(text, str) or set(part) - {"type", kind, "text"}:
        raise ValueError(f'a part of type {kind} is {{"type": "{kind}", "{kind}": "..."}}')
    return text


def _weight_of(part: object) -> float | None:
    return part.weight if isinstance(part, RowTextPart) else None


def without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Return an object without keys that are null: data sets write those for what is absent."""
    return {key: item for key, item in value.items() if item is not None}


class MessagesRow(Record):
    """A conversation. ``tools`` are offered to the model in it; ``weight`` multiplies all loss weights."""

    messages: tuple[RowMessage, ...] = Field(min_length=1)
    tools: RowTools = ()
    weight: Weight = 1.0

    @field_validator("messages", mode="before")
    @classmethod
    def _with_call_ids(cls, value: object) -> object:
        return list(_with_ids(value)) if isinstance(value, list | tuple) else value

    def example(self, train_on: TrainOn) -> Example:
        """Return the example of the row. Raises RowProblem."""
        return conversation(self.messages, train_on, tools=self.tools, weight=self.weight)


def _with_ids(messages: Sequence[object]) -> Iterator[object]:
    """Give ids to tool calls and results that have none, in order: most data sets leave them out."""
    number, open_calls = 0, list[str]()
    for message in messages:
        if not isinstance(message, Mapping):
            yield message
            continue
        found = without_nulls(message)
        calls = found.get("tool_calls")
        if isinstance(calls, list) and all(isinstance(call, Mapping) for call in calls):
            named = []
            for call in calls:
                number += 1
                named.append({"id": f"call_{number}", **without_nulls(call)})
            open_calls = [str(call["id"]) for call in named]
            found["tool_calls"] = named
        elif found.get("role") == "tool" and "tool_call_id" not in found and open_calls:
            found["tool_call_id"] = open_calls.pop(0)
        yield found


def conversation(
    messages: Sequence[RowMessage], train_on: TrainOn, *, tools: Sequence[Tool] = (), weight: float = 1.0
) -> Example:
    """Return the example of a conversation. Raises RowProblem."""
    try:
        Prompt(messages=messages, tools=tools)
    except ValidationError as error:
        raise RowProblem(
            error.errors()[0]["msg"].removeprefix("Value error, "), "correct the conversation", "messages"
        ) from None
    usual = usual_weights(tuple(message.role.value for message in messages), train_on)
    turns: list[dict[str, Any]] = []
    weights: list[TurnWeight] = []
    for message, of_usual in zip(messages, usual, strict=True):
        for turn in turns_of(message):
            if message.prefill is not None:
                turn["content"] = message.prefill + turn["content"]
            turns.append(turn)
            weights.append(message.weights(of_usual))
    require_trained(weights, [turn["role"] for turn in turns], train_on)
    images = tuple(
        part.example_image(f"messages[{index}].content[{number}]")
        for index, message in enumerate(messages)
        for number, part in enumerate(message.parts())
        if isinstance(part, RowImagePart)
    )
    return Example(
        tuple(turns),
        weights=tuple(weights),
        tools=tuple(map(tool_form, tools)),
        weight=weight,
        images=images,
        unused=("tools.strict",) if any(tool.strict is not None for tool in tools) else (),
    )


def require_trained(weights: Sequence[TurnWeight], roles: Sequence[str], train_on: TrainOn) -> None:
    """Check that some turn is trained. Raises RowProblem."""
    if any(weight.output or weight.header or any(span[2] for span in weight.spans) for weight in weights):
        return
    if "assistant" not in roles and "assistant" in train_on:
        raise RowProblem("has no assistant message", "an example needs one to learn from", "messages")
    raise RowProblem(f"has no message with a loss weight (train_on {train_on})", "train on one of them", "messages")


_PlainRole: TypeAlias = Literal["system", "user", "assistant", "tool"]
PLAIN_ROLES: Final = ("system", "user", "assistant", "tool")


class _PlainMessage(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid", str_max_length=MAX_TEXT_LENGTH)  # type: ignore[misc]
    role: _PlainRole
    content: Annotated[str, Field(min_length=1)]


class _PlainRow(TypedDict):
    __pydantic_config__ = ConfigDict(extra="forbid")  # type: ignore[misc]
    messages: Annotated[tuple[_PlainMessage, ...], Field(min_length=1)]


_PLAIN_ROW: Final = TypeAdapter(_PlainRow)


def plain_example(content: object, train_on: TrainOn) -> Example | None:
    """Return the example of a row with nothing but roles and texts, given as JSON or as an object; None for any
    other. Most rows are such, and this takes a tenth of the time."""
    try:
        if isinstance(content, bytes):
            row = _PLAIN_ROW.validate_json(content)
        else:
            row = _PLAIN_ROW.validate_python(content, strict=True)
    except ValidationError:
        return None
    turns = row["messages"]
    if isinstance(content, bytes) and not _has_each_field_once(content, len(turns)):
        return None
    weights = usual_weights(tuple(turn["role"] for turn in turns), train_on)
    if not any(weight.output or weight.header for weight in weights):
        return None
    return Example(turns, weights=weights)  # type: ignore[arg-type]


def _has_each_field_once(content: bytes, turns: int) -> bool:
    # in a text, the quotes are escaped
    counts = [content.count(name) for name in (b'"messages"', b'"role"', b'"content"')]
    return counts == [1, turns, turns]
