"""OpenAI's forms of messages and options, converted to those of ``crucible.prompt`` and ``crucible.options``."""

from collections.abc import Mapping
from typing import Any, Final

_THINKING_FIELDS: Final = ("reasoning_content", "reasoning")
_SCHEMA_FIELDS: Final = frozenset({"name", "description", "schema", "strict"})


def message_form(value: object) -> object:
    """Convert a message: ``reasoning_content`` is its thinking, ``tool_calls`` and parts are converted too."""
    if not isinstance(value, Mapping):
        return value
    found = {key: item for key, item in value.items() if key not in _THINKING_FIELDS or item is not None}
    for name in _THINKING_FIELDS:
        if name in found and "thinking" not in found:
            found["thinking"] = found.pop(name)
    content = found.get("content")
    if isinstance(content, list | tuple):
        found["content"] = [_part(part) for part in content]
    calls = found.get("tool_calls")
    if isinstance(calls, list | tuple):
        found["tool_calls"] = [_tool_call(call) for call in calls]
    return found


def options_form(value: object) -> object:
    """Convert options: ``response_format`` may be an object, ``json_schema`` may have a name and ``strict``."""
    if not isinstance(value, Mapping):
        return value
    found = dict(value)
    wrapped = found.get("response_format")
    if isinstance(wrapped, Mapping):
        rest = {key: item for key, item in wrapped.items() if key != "type"}
        kind = wrapped.get("type")
        found["response_format"] = "json" if kind == "json_object" else kind
        if kind == "json_schema" and "json_schema" in rest:
            _merge(found, "json_schema", rest.pop("json_schema"))
        if rest:
            raise ValueError(f"response_format has the unknown fields {sorted(map(str, rest))}")
    schema = found.get("json_schema")
    if isinstance(schema, Mapping) and isinstance(schema.get("schema"), Mapping) and set(schema) <= _SCHEMA_FIELDS:
        found["json_schema"] = schema["schema"]
        for name in sorted(_SCHEMA_FIELDS - {"schema"}):
            if schema.get(name) is not None:
                _merge(found, f"json_schema_{name}", schema[name])
    return found


def _merge(found: dict[str, Any], name: str, value: object) -> None:
    if found.get(name) not in (None, value):
        raise ValueError(f"{name} is set twice, with different values")
    found[name] = value


def _part(value: object) -> object:
    """``image_url`` and ``input_audio`` parts become image and audio parts."""
    if not isinstance(value, Mapping):
        return value
    kind = value.get("type")
    inner = value.get(kind) if isinstance(kind, str) else None
    rest = {key: item for key, item in value.items() if key not in ("type", kind)}
    if kind == "image_url":
        fields = inner if isinstance(inner, Mapping) else {"url": inner}
        return {"type": "image", **fields, **rest}
    if kind == "audio_url":
        fields = inner if isinstance(inner, Mapping) else {"url": inner}
        return {"type": "audio", **fields, **rest}
    if kind == "input_audio" and isinstance(inner, Mapping):
        return {"type": "audio", **{_AUDIO_NAMES.get(key, key): item for key, item in inner.items()}, **rest}
    return value


_AUDIO_NAMES: Final = {"data": "base64"}


def _tool_call(value: object) -> object:
    """``{id, type: function, function: {name, arguments}}`` becomes ``{id, name, arguments}``."""
    if not isinstance(value, Mapping) or not isinstance(value.get("function"), Mapping):
        return value
    if value.get("type", "function") != "function":
        return value
    rest = {key: item for key, item in value.items() if key not in ("type", "function")}
    return {**value["function"], **rest}
