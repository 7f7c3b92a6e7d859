"""A prompt in the form that chat templates read: plain messages, tools, and a flag for thinking.

A message is a mapping with ``role``, ``content`` and, where present, ``name``, ``tool_calls``, ``tool_call_id`` and
``reasoning_content``, the turn's thinking.
``content`` is text or, with images, a list of ``{"type": "text", "text": ...}`` and ``{"type": "image"}``;
``Chat.images`` holds the images in the same order. Tools and tool calls have the form of OpenAI's API, with the
arguments as an object.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from crucible.errors import MalformedAnswer
from crucible.prompt import ImagePart, Message, Prompt, Role, TextPart, Tool, ToolCall, ToolChoice, ToolResultPart


@dataclass(frozen=True, slots=True)
class PlacedImage:
    """An image and the path of its field in the prompt."""

    place: str
    image: ImagePart


@dataclass(frozen=True, slots=True)
class Chat:
    """The input of a chat template."""

    messages: tuple[Mapping[str, Any], ...]
    tools: tuple[Mapping[str, Any], ...] = ()
    thinking: bool = False
    images: tuple[PlacedImage, ...] = ()


def chat_of(prompt: Prompt) -> Chat:
    """Convert a prompt. With ``tool_choice`` none, its tools are left out."""
    system = [] if prompt.system is None else [{"role": Role.SYSTEM.value, "content": prompt.system}]
    offered = () if prompt.tool_choice is ToolChoice.NONE else prompt.tools
    return Chat(
        messages=(*system, *(turn for message in prompt.messages for turn in turns_of(message))),
        tools=tuple(tool_form(tool) for tool in offered),
        thinking=prompt.options.extended_thinking,
        images=tuple(
            PlacedImage(f"messages[{index}].content[{number}]", part)
            for index, message in enumerate(prompt.messages)
            if not isinstance(message.content, str)
            for number, part in enumerate(message.parts())
            if isinstance(part, ImagePart)
        ),
    )


def turns_of(message: Message) -> Iterator[dict[str, Any]]:
    """Yield the turns of a message: one for every tool result among the parts, and one for the other parts."""
    parts = () if isinstance(message.content, str) else message.parts()
    results = [part for part in parts if isinstance(part, ToolResultPart)]
    for result in results:
        yield {"role": Role.TOOL.value, "tool_call_id": result.tool_call_id, "content": result.content}
    rest = [part for part in parts if not isinstance(part, ToolResultPart)]
    if results and not rest:
        return
    role = Role.USER if message.role is Role.TOOL and message.tool_call_id is None else message.role
    turn: dict[str, Any] = {"role": role.in_templates, "content": _content(rest) or message.text()}
    if message.thinking is not None:
        turn["reasoning_content"] = message.thinking
    if message.name is not None:
        turn["name"] = message.name
    if message.tool_call_id is not None:
        turn["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        turn["tool_calls"] = [_call(call) for call in message.tool_calls]
    yield turn


def _content(parts: list[Any]) -> str | list[dict[str, Any]]:
    if not any(isinstance(part, ImagePart) for part in parts):
        return "".join(part.text for part in parts if isinstance(part, TextPart))
    return [
        {"type": "text", "text": part.text} if isinstance(part, TextPart) else {"type": "image"} for part in parts
    ]


def _call(call: ToolCall) -> dict[str, Any]:
    try:
        arguments: Any = call.parsed_arguments()
    except MalformedAnswer:
        # the model generated malformed arguments, and is shown them as they were
        arguments = call.arguments
    return {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": arguments}}


def tool_form(tool: Tool) -> dict[str, Any]:
    """Return a tool in the form of OpenAI's API."""
    described = {} if tool.description is None else {"description": tool.description}
    parameters = tool.parameters or {"type": "object", "properties": {}}
    return {"type": "function", "function": {"name": tool.name, **described, "parameters": parameters}}
