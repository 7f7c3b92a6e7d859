"""Conversion of prompts to request bodies of chat completions, without loss of any field of the protocol."""

import json
from collections.abc import Iterator
from typing import Any, Final

from crucible.options import Options, ResponseFormat
from crucible.prompt import (
    AudioPart,
    ImagePart,
    Message,
    NamedTool,
    Prompt,
    Role,
    TextPart,
    Tool,
    ToolCall,
    ToolResultPart,
)

PLAIN_OPTIONS: Final = ("temperature", "top_p", "frequency_penalty", "presence_penalty", "seed")


def request_body(prompt: Prompt, model: str, limit_field: str, *, thinking: str | None) -> dict[str, Any]:
    """The body of a request. Fields that are not in OpenAI's own protocol are under ``extra_body``.

    ``thinking`` names the field of a message for its thinking.
    """
    options = prompt.options
    body: dict[str, Any] = {
        "model": model,
        "messages": [wire for message in prompt.conversation() for wire in _messages(message, thinking)],
        **{name: getattr(options, name) for name in PLAIN_OPTIONS if getattr(options, name) is not None},
    }
    if options.max_tokens is not None:
        body[limit_field] = options.max_tokens
    if options.stop:
        body["stop"] = list(options.stop)
    if options.n > 1:
        body["n"] = options.n
    if options.logprobs:
        body["logprobs"] = True
    if options.top_logprobs is not None:
        body["top_logprobs"] = options.top_logprobs
    if prompt.tools:
        body["tools"] = [_tool(tool) for tool in prompt.tools]
    if prompt.tool_choice is not None:
        body["tool_choice"] = _tool_choice(prompt)
    if options.response_format is not None:
        body["response_format"] = _response_format(options)
    extra = dict(options.extra)
    if options.top_k is not None:
        extra["top_k"] = options.top_k
    if extra:
        body["extra_body"] = extra
    return body


def _messages(message: Message, thinking: str | None) -> Iterator[dict[str, Any]]:
    """Convert a message; each tool result among its parts becomes a message of its own, as in the protocol."""
    parts: list[TextPart | ImagePart | AudioPart] = []
    for part in message.parts():
        if isinstance(part, ToolResultPart):
            yield {"role": "tool", "tool_call_id": part.tool_call_id, "content": _as_text(part.content)}
        else:
            parts.append(part)
    if message.role is Role.TOOL and message.tool_call_id is None:
        if parts:
            yield {"role": "user", "content": _content(message, parts)}
        return
    if not parts and message.parts():
        return
    wire: dict[str, Any] = {"role": message.role.value, "content": _content(message, parts)}
    if message.thinking is not None and thinking is not None:
        wire[thinking] = message.thinking
    if message.refusal is not None:
        wire["refusal"] = message.refusal
    if message.name is not None:
        wire["name"] = message.name
    if message.tool_call_id is not None:
        wire["tool_call_id"] = message.tool_call_id
    if message.tool_calls:
        wire["tool_calls"] = [_tool_call(call) for call in message.tool_calls]
    yield wire


def _content(message: Message, parts: list[TextPart | ImagePart | AudioPart]) -> Any:
    if message.content is None or isinstance(message.content, str):
        return message.content
    return [_part(part) for part in parts]


def _part(part: TextPart | ImagePart | AudioPart) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, ImagePart):
        url = part.url or f"data:{part.media_type};base64,{part.base64}"
        detail = {} if part.detail is None else {"detail": part.detail}
        return {"type": "image_url", "image_url": {"url": url, **detail}}
    if part.base64 is not None:
        return {"type": "input_audio", "input_audio": {"data": part.base64, "format": part.format or "wav"}}
    return {"type": "audio_url", "audio_url": {"url": part.url}}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments_text()}
    return {"id": call.id, "type": "function", "function": function}


def _tool(tool: Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.parameters or {"type": "object"}}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return {"type": "function", "function": function}


def _tool_choice(prompt: Prompt) -> Any:
    choice = prompt.tool_choice
    if isinstance(choice, NamedTool):
        return {"type": "function", "function": {"name": choice.name}}
    return None if choice is None else choice.value


def _response_format(options: Options) -> dict[str, Any]:
    match options.response_format:
        case ResponseFormat.JSON_SCHEMA:
            schema = options.json_schema or {}
            title = schema.get("title")
            usual = title if isinstance(title, str) and title.isidentifier() else "answer"
            wrapped: dict[str, Any] = {"name": options.json_schema_name or usual, "schema": schema}
            if options.json_schema_description is not None:
                wrapped["description"] = options.json_schema_description
            if options.json_schema_strict is not None:
                wrapped["strict"] = options.json_schema_strict
            return {"type": "json_schema", "json_schema": wrapped}
        case ResponseFormat.JSON:
            return {"type": "json_object"}
        case _:
            return {"type": "text"}


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
