"""A prompt: a conversation, the tools that the model may call, and options for the answer."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal, Self, TypeAlias

from pydantic import Field, JsonValue, field_validator, model_validator

from crucible.errors import MalformedAnswer
from crucible.options import Options
from crucible.rendering.media import IMAGE_TYPES, decode_image
from crucible.rendering.openai_forms import message_form
from crucible.values.json_schema import check_json_schema
from crucible.values.json_types import BIG_INTEGER, FiniteJson, FiniteObject, json_problem
from crucible.values.record import Record
from crucible.values.scalars import Name

RoleName: TypeAlias = Literal["system", "developer", "user", "assistant", "tool"]


class Role(StrEnum):
    """The author of a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"

    @property
    def in_templates(self) -> str:
        """The role's name in chat templates: of a developer's turn that of the system, which it replaces."""
        return Role.SYSTEM.value if self is Role.DEVELOPER else self.value


class TextPart(Record):
    """Plain text."""

    type: Literal["text"] = "text"
    text: str


class ImagePart(Record):
    """An image, by URL or as base64 data."""

    type: Literal["image"] = "image"
    url: str | None = None
    base64: str | None = Field(default=None, repr=False)
    media_type: str | None = None
    detail: Literal["auto", "low", "high"] | None = None
    """The resolution at which a provider should read the image."""

    @model_validator(mode="after")
    def _valid_image(self) -> Self:
        if (self.url is None) == (self.base64 is None):
            raise ValueError("an image needs either url or base64, and not both")
        if self.url is not None:
            _check_url(self.url, r"data:image/[a-z.+-]+;base64,")
        if self.media_type is not None and self.media_type not in IMAGE_TYPES:
            raise ValueError(f"media_type {self.media_type!r} is not allowed; allowed are {', '.join(IMAGE_TYPES)}")
        if self.base64 is not None:
            if self.media_type is None:
                raise ValueError("an image in base64 needs media_type")
            decode_image(self.base64, self.media_type)
        elif self.url is not None and self.url.startswith("data:"):
            decode_image(self.url.partition(",")[2], None)
        return self


class AudioPart(Record):
    """An audio clip, by URL or as base64 data."""

    type: Literal["audio"] = "audio"
    url: str | None = None
    base64: str | None = Field(default=None, repr=False, min_length=1)
    format: str | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _valid_audio(self) -> Self:
        if (self.url is None) == (self.base64 is None):
            raise ValueError("audio needs either url or base64, and not both")
        if self.url is not None:
            _check_url(self.url, r"data:audio/[a-z0-9.+-]+;base64,")
        return self


class ToolResultPart(Record):
    """A tool's result for an earlier call in the conversation."""

    type: Literal["tool_result"] = "tool_result"
    tool_call_id: str = Field(min_length=1)
    content: FiniteJson


Part: TypeAlias = Annotated[TextPart | ImagePart | AudioPart | ToolResultPart, Field(discriminator="type")]


class ToolCall(Record):
    """A tool call by the model. ``arguments`` is an object, or its JSON text as generated.

    Id and name are the model's, and go back to it as they came."""

    id: str = Field(min_length=1)
    name: str = Field(min_length=1)
    arguments: FiniteObject | str = Field(default_factory=dict)

    @field_validator("arguments", mode="before")
    @classmethod
    def _big_integers_as_text(cls, value: object) -> object:
        # what a model generated is not refused: JSON text holds an integer of any size
        if isinstance(value, Mapping) and (json_problem(value) or ("", ""))[1] == BIG_INTEGER:
            with suppress(ValueError, TypeError):
                return json.dumps(value, allow_nan=False)
        return value

    def arguments_text(self) -> str:
        """Return the arguments as JSON text."""
        return self.arguments if isinstance(self.arguments, str) else json.dumps(self.arguments)

    def parsed_arguments(self) -> dict[str, JsonValue]:
        """Parse the arguments into an object.

        Raises:
            MalformedAnswer: the generated text is not a JSON object.
        """
        if not isinstance(self.arguments, str):
            return self.arguments
        try:
            value = json.loads(self.arguments or "{}")
        except ValueError as exc:
            raise MalformedAnswer(f"arguments of tool call {self.id}: not JSON ({exc})") from exc
        if not isinstance(value, dict):
            raise MalformedAnswer(f"arguments of tool call {self.id}: {type(value).__name__} instead of an object")
        return value


class Message(Record):
    """A turn of a conversation. ``content`` is text or parts; an assistant's turn may have tool calls instead.

    Messages in the form of OpenAI's API are accepted too.
    """

    role: Role
    content: str | tuple[Part, ...] | None = None
    thinking: str | None = Field(default=None, min_length=1)
    """The reasoning before an assistant's turn, which some models need with its tool calls' results."""
    refusal: str | None = Field(default=None, min_length=1)
    """The text with which an assistant refused to answer."""
    name: Name | None = Field(default=None, min_length=1)
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = Field(default=None, min_length=1)

    if TYPE_CHECKING:
        # for type checkers: what the validators take, where they take more than the field holds
        def __init__(
            self,
            *,
            role: Role | RoleName,
            content: str | Sequence[Part | Mapping[str, object]] | None = ...,
            thinking: str | None = ...,
            refusal: str | None = ...,
            name: str | None = ...,
            tool_calls: Sequence[ToolCall | Mapping[str, object]] = ...,
            tool_call_id: str | None = ...,
        ) -> None: ...

    @model_validator(mode="before")
    @classmethod
    def _converted(cls, value: object) -> object:
        return message_form(value)

    @field_validator("tool_calls", mode="before")
    @classmethod
    def _null_is_empty(cls, value: object) -> object:
        return () if value is None else value

    @model_validator(mode="after")
    def _matches_role(self) -> Self:
        if self.content == ():
            raise ValueError("content must not be an empty list of parts")
        if self.tool_calls and self.role is not Role.ASSISTANT:
            raise ValueError(f"tool_calls need role assistant, not {self.role.value}")
        for field in ("thinking", "refusal"):
            if getattr(self, field) is not None and self.role is not Role.ASSISTANT:
                raise ValueError(f"{field} needs role assistant, not {self.role.value}")
        if len({call.id for call in self.tool_calls}) != len(self.tool_calls):
            raise ValueError("tool_calls must have different ids")
        if self.content is None and self.role is not Role.ASSISTANT:
            raise ValueError(f"a message with role {self.role.value} needs content")
        if self.tool_call_id is not None and self.role is not Role.TOOL:
            raise ValueError(f"tool_call_id needs role tool, not {self.role.value}")
        parts = () if isinstance(self.content, str) else self.parts()
        results = [part for part in parts if isinstance(part, ToolResultPart)]
        if results and self.role not in (Role.TOOL, Role.USER):
            raise ValueError(f"a tool_result needs role tool or user, not {self.role.value}")
        if self.role is Role.TOOL and self.tool_call_id is None and not results:
            raise ValueError("a message with role tool needs tool_call_id, or parts of type tool_result")
        return self

    def parts(self) -> tuple[TextPart | ImagePart | AudioPart | ToolResultPart, ...]:
        """The content as parts; plain text becomes a text part."""
        if self.content is None:
            return ()
        return (TextPart(text=self.content),) if isinstance(self.content, str) else self.content

    def text(self) -> str:
        """The concatenated text parts; a refusal's text if there are none."""
        if isinstance(self.content, str):
            return self.content or self.refusal or ""
        text = "".join(part.text for part in self.parts() if isinstance(part, TextPart))
        return text or self.refusal or ""


class Tool(Record):
    """A tool that the model may call; ``parameters`` is the JSON Schema of its arguments."""

    name: Name = Field(min_length=1, max_length=128)
    description: str | None = None
    parameters: FiniteObject = Field(default_factory=dict)
    strict: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _unwrapped(cls, value: object) -> object:
        """Accept the form of OpenAI's API too: {type: function, function: {...}}."""
        if isinstance(value, Mapping) and value.get("type") == "function":
            inner = value.get("function")
            if isinstance(inner, Mapping):
                # what stands beside it is read or refused like what stands in it
                return {**inner, **{k: v for k, v in value.items() if k not in ("type", "function")}}
            return {k: v for k, v in value.items() if k != "type"}
        return value

    @field_validator("parameters")
    @classmethod
    def _valid_schema(cls, value: dict[str, JsonValue]) -> dict[str, JsonValue]:
        check_json_schema(value, "parameters")
        return value


ToolChoiceName: TypeAlias = Literal["auto", "none", "required"]


class ToolChoice(StrEnum):
    """The mode of tool calls: optional, forbidden or required."""

    AUTO = "auto"
    NONE = "none"
    REQUIRED = "required"


class NamedTool(Record):
    """The tool that the model must call."""

    name: Name = Field(min_length=1)


class Prompt(Record):
    """A request for a completion."""

    messages: tuple[Message, ...] = ()
    system: str | None = None
    """The system prompt: precedes the messages, as a first message with role system would."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | NamedTool | None = None
    options: Options = Options()
    request_id: Name | None = None
    trace_id: Name | None = None
    metadata: FiniteObject = Field(default_factory=dict)

    if TYPE_CHECKING:
        # for type checkers: what the validators take, where they take more than the field holds
        def __init__(
            self,
            *,
            messages: Sequence[Message | Mapping[str, object]] = ...,
            system: str | None = ...,
            tools: Sequence[Tool | Mapping[str, object]] = ...,
            tool_choice: ToolChoice | ToolChoiceName | NamedTool | Mapping[str, object] | None = ...,
            options: Options | Mapping[str, object] | None = ...,
            request_id: str | None = ...,
            trace_id: str | None = ...,
            metadata: Mapping[str, object] | None = ...,
        ) -> None: ...

    @field_validator("messages", "tools", "options", "metadata", mode="before")
    @classmethod
    def _null_is_default(cls, value: object, info: object) -> object:
        if value is not None:
            return value
        name = getattr(info, "field_name", "")
        return {"options": Options(), "metadata": {}}.get(name, ())

    @field_validator("messages")
    @classmethod
    def _results_follow_calls(cls, messages: tuple[Message, ...]) -> tuple[Message, ...]:
        called: set[str] = set()
        for index, message in enumerate(messages):
            for call_id in _answered_calls(message):
                if call_id not in called:
                    raise ValueError(
                        f"messages[{index}]: tool result {call_id!r} has no earlier tool call with that id"
                    )
            called.update(call.id for call in message.tool_calls)
        return messages

    @model_validator(mode="after")
    def _valid_tool_choice(self) -> Self:
        names = [tool.name for tool in self.tools]
        if len(set(names)) != len(names):
            raise ValueError("tools must have different names")
        if isinstance(self.tool_choice, NamedTool) and self.tool_choice.name not in names:
            raise ValueError(f"tool_choice {self.tool_choice.name!r} is not one of the tools: {names}")
        if self.tool_choice is ToolChoice.REQUIRED and not names:
            raise ValueError("tool_choice required needs at least one tool")
        return self

    def conversation(self) -> tuple[Message, ...]:
        """The messages, preceded by ``system`` as a message."""
        if self.system is None:
            return self.messages
        return (Message(role=Role.SYSTEM, content=self.system), *self.messages)


def _answered_calls(message: Message) -> Iterator[str]:
    if message.tool_call_id is not None:
        yield message.tool_call_id
    for part in message.parts():
        if isinstance(part, ToolResultPart):
            yield part.tool_call_id


def _check_url(url: str, data_pattern: str) -> None:
    if re.match(r"https?://[^/\s]+", url) is None and re.match(data_pattern, url) is None:
        shown = url if len(url) <= 60 else url[:57] + "..."
        raise ValueError(f"url {shown!r} is not allowed; allowed are http:// and https:// addresses and data: URLs")
