"""Every field of a prompt, down to its parts and options, changes the request or is refused by its name.

A new field fails here until its row shows which.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from backends.openai.answers import choices_of, completion_of
from backends.openai.requests import request_body
from backends.openai.wire import read_answer
from crucible import Capabilities, Prompt
from crucible.errors import CrucibleError
from crucible.requirements import require

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
SCHEMA = {"response_format": "json_schema", "json_schema": {"type": "object"}}
TOOL = {"name": "add", "parameters": {"type": "object"}}
CALL = {"id": "c1", "name": "add", "arguments": {"x": 1}}
RESULT = {"type": "tool_result", "tool_call_id": "c1", "content": "2"}
URL = "https://example.org/a.png"


def user(content: Any = "Hi", **fields: Any) -> dict[str, Any]:
    """A prompt of one message."""
    return {"messages": [{"role": "user", "content": content, **fields}]}


def options(**fields: Any) -> dict[str, Any]:
    """A prompt with options."""
    return {**user(), "options": fields}


def tool(**fields: Any) -> dict[str, Any]:
    """A prompt with a tool."""
    return {**user(), "tools": [{**TOOL, **fields}]}


def said(**fields: Any) -> dict[str, Any]:
    """A prompt with a turn of the model."""
    return {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho", **fields}]}


def answered(content: Any = "2", call_id: str | None = None) -> dict[str, Any]:
    """A prompt with two calls of a tool and the result of one."""
    calls = [{**CALL, "id": name} for name in ("c1", "c2")]
    result = {"role": "tool", "content": content, "tool_call_id": call_id}
    turns = [{"role": "assistant", "tool_calls": calls}, result]
    return {"messages": [{"role": "user", "content": "Hi"}, *turns], "tools": [TOOL]}


def part(kind: str, **fields: Any) -> dict[str, Any]:
    """A prompt of one part."""
    return user([{"type": kind, **fields}])


CHANGES: dict[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "TextPart.type": (part("text", text="a"), part("image", url=URL)),
    "TextPart.text": (part("text", text="a"), part("text", text="b")),
    "ImagePart.type": (part("image", url=URL), part("audio", url=URL)),
    "ImagePart.url": (part("image", url=URL), part("image", url=URL + "?b")),
    "ImagePart.base64": (part("image", url=URL), part("image", base64=PIXEL, media_type="image/png")),
    "ImagePart.media_type": (part("image", url=URL), part("image", base64=PIXEL, media_type="image/png")),
    "ImagePart.detail": (part("image", url=URL), part("image", url=URL, detail="high")),
    "AudioPart.type": (part("audio", url=URL), part("image", url=URL)),
    "AudioPart.url": (part("audio", url=URL), part("audio", url=URL + "?b")),
    "AudioPart.base64": (part("audio", url=URL), part("audio", base64="aGk=", format="wav")),
    "AudioPart.format": (part("audio", base64="aGk=", format="wav"), part("audio", base64="aGk=", format="mp3")),
    "ToolResultPart.type": (answered([RESULT]), answered([{"type": "text", "text": "2"}], "c1")),
    "ToolResultPart.tool_call_id": (answered([RESULT]), answered([{**RESULT, "tool_call_id": "c2"}])),
    "ToolResultPart.content": (answered([RESULT]), answered([{**RESULT, "content": {"sum": 2}}])),
    "ToolCall.id": (said(tool_calls=[CALL]), said(tool_calls=[{**CALL, "id": "c2"}])),
    "ToolCall.name": (said(tool_calls=[CALL]), said(tool_calls=[{**CALL, "name": "sub"}])),
    "ToolCall.arguments": (said(tool_calls=[CALL]), said(tool_calls=[{**CALL, "arguments": {"x": 2}}])),
    "Message.role": (user(), {"messages": [{"role": "system", "content": "Hi"}]}),
    "Message.content": (user(), user("Ho")),
    "Message.thinking": (said(), said(thinking="Hm")),
    "Message.refusal": (said(), said(refusal="No")),
    "Message.name": (user(), user(name="ann")),
    "Message.tool_calls": (said(), said(tool_calls=[CALL])),
    "Message.tool_call_id": (answered(call_id="c1"), answered(call_id="c2")),
    "Tool.name": (tool(), tool(name="sub")),
    "Tool.description": (tool(), tool(description="Adds.")),
    "Tool.parameters": (tool(), tool(parameters={"type": "object", "properties": {"x": {}}})),
    "Tool.strict": (tool(), tool(strict=True)),
    "NamedTool.name": (
        {**user(), "tools": [TOOL, {**TOOL, "name": "sub"}], "tool_choice": {"name": "add"}},
        {**user(), "tools": [TOOL, {**TOOL, "name": "sub"}], "tool_choice": {"name": "sub"}},
    ),
    "Prompt.messages": (user(), said()),
    "Prompt.system": (user(), {**user(), "system": "Be brief."}),
    "Prompt.tools": (user(), tool()),
    "Prompt.tool_choice": (tool(), {**tool(), "tool_choice": "required"}),
    "Prompt.options": (user(), options(seed=7)),
    "Options.temperature": (user(), options(temperature=0.5)),
    "Options.max_tokens": (user(), options(max_tokens=5)),
    "Options.top_p": (user(), options(top_p=0.5)),
    "Options.top_k": (user(), options(top_k=5)),
    "Options.frequency_penalty": (user(), options(frequency_penalty=1)),
    "Options.presence_penalty": (user(), options(presence_penalty=1)),
    "Options.stop": (user(), options(stop="x")),
    "Options.response_format": (user(), options(response_format="json")),
    "Options.json_schema": (options(**SCHEMA), options(**{**SCHEMA, "json_schema": {"type": "array"}})),
    "Options.json_schema_name": (options(**SCHEMA), options(**SCHEMA, json_schema_name="sum")),
    "Options.json_schema_description": (options(**SCHEMA), options(**SCHEMA, json_schema_description="A sum.")),
    "Options.json_schema_strict": (options(**SCHEMA), options(**SCHEMA, json_schema_strict=True)),
    "Options.seed": (user(), options(seed=7)),
    "Options.n": (user(), options(n=2)),
    "Options.logprobs": (user(), options(logprobs=True)),
    "Options.top_logprobs": (options(logprobs=True), options(logprobs=True, top_logprobs=3)),
    "Options.extra": (user(), options(extra={"min_p": 0.1})),
}
"""A prompt and one that differs in the field, whose requests differ."""

REFUSED: dict[str, Mapping[str, Any]] = {
    "options.cache_control": options(cache_control="ephemeral"),
    "options.extended_thinking": options(extended_thinking=True),
    "options.stream": options(stream=True),
    "options.n": options(n=2),
    "options.logprobs": options(logprobs=True),
    "options.timeout_ms": options(timeout_ms=5),
    "options.temperature": options(temperature=0.5),
    "tools": tool(),
}
"""Prompts that a backend without the capability refuses, by the field that the error names."""

ELSEWHERE: dict[str, str] = {
    "Options.model": "integration/tinkex_backend/test_completions.py",
    "Options.stream": "unit/client/test_submit.py",
    "Options.cache_control": "unit/openai/test_every_prompt_field.py",
    "Options.extended_thinking": "integration/tinkex_backend/test_chat_features.py",
    "Options.thinking_budget_tokens": "integration/tinkex_backend/test_chat_features.py",
    "Options.timeout_ms": "contract/test_openai.py",
    "Prompt.request_id": "unit/openai/test_every_prompt_field.py",
    "Prompt.trace_id": "unit/openai/test_every_prompt_field.py",
    "Prompt.metadata": "unit/inference/test_inference.py",
}
"""Fields that are no part of a request's body, with the test file that shows their effect."""


def models(root: type[BaseModel]) -> list[type[BaseModel]]:
    """A model and all models inside its fields."""
    seen: list[type[BaseModel]] = []
    pending: list[Any] = [root]
    while pending:
        annotation = pending.pop()
        if isinstance(annotation, type) and issubclass(annotation, BaseModel) and annotation not in seen:
            seen.append(annotation)
            pending += [field.annotation for field in annotation.model_fields.values()]
        pending += get_args(annotation)
    return seen


def test_every_field_of_a_prompt_has_a_row() -> None:
    """And no row is of a field that is gone."""
    fields = {f"{model.__name__}.{name}" for model in models(Prompt) for name in model.model_fields}
    assert fields == {*CHANGES, *ELSEWHERE}
    tests = Path(__file__).parents[2]
    assert [
        field for field, file in ELSEWHERE.items() if field.split(".")[1] not in (tests / file).read_text()
    ] == []


def test_the_ids_of_a_prompt_come_back_with_its_answer() -> None:
    """Whatever the service calls the request."""
    answer = read_answer(
        {"id": "theirs", "choices": [{"message": {"content": "Ho"}, "finish_reason": "stop"}]}, "m"
    )
    prompt = Prompt.model_validate({**user(), "request_id": "mine", "trace_id": "t"})
    found = completion_of(answer, choices_of(answer), prompt=prompt, model="m", usage=None, cost=None, began=0.0)
    assert (found.request_id, found.trace_id) == ("mine", "t")


@pytest.mark.parametrize("field", CHANGES)
def test_a_field_changes_the_request(field: str) -> None:
    """Two prompts that differ in it are two requests."""
    before, after = (
        request_body(Prompt.model_validate(data), "m", "max_tokens", thinking="reasoning")
        for data in CHANGES[field]
    )
    assert before != after


@pytest.mark.parametrize("field", REFUSED)
def test_a_field_that_a_backend_cannot_honour_is_refused_by_name(field: str) -> None:
    """Before anything is sent."""
    capabilities = Capabilities(backend_id="x", provider="tests", default_model="m", options=())
    require(Prompt.model_validate(user()), capabilities)
    with pytest.raises(CrucibleError, match=rf"^{field}: the backend 'x' does not support this"):
        require(Prompt.model_validate(REFUSED[field]), capabilities)
