"""What is wrong with a prompt is said when it is made: which field, which value, what is allowed."""

import base64
from typing import Any

import pytest

from crucible import InvalidRequest, Options, Prompt, read_json, read_record

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n0000").decode()
CALL = {"role": "assistant", "tool_calls": [{"id": "a", "name": "look", "arguments": {}}]}


def user(content: object) -> dict[str, object]:
    """A prompt with this one turn."""
    return {"messages": [{"role": "user", "content": content}]}


def image(**fields: str) -> dict[str, object]:
    """A prompt with this one image."""
    return user([{"type": "image", **fields}])


BAD_PROMPTS: dict[str, tuple[dict[str, Any], str]] = {
    "unknown role": ({"messages": [{"role": "wizard", "content": "Hi"}]}, "messages[0].role"),
    "unknown part": (user([{"type": "video", "url": "https://example.org"}]), "video"),
    "no content": ({"messages": [{"role": "user"}]}, "needs content"),
    "empty parts": (user([]), "empty list"),
    "tool result without its call": (
        {"messages": [{"role": "tool", "tool_call_id": "a", "content": "4"}]},
        "messages[0]: tool result 'a'",
    ),
    "tool result part without its call": (
        {"messages": [{"role": "tool", "content": [{"type": "tool_result", "tool_call_id": "b", "content": 4}]}]},
        "tool result 'b'",
    ),
    "tool result before its call": (
        {"messages": [{"role": "tool", "tool_call_id": "a", "content": "4"}, CALL]},
        "messages[0]",
    ),
    "tool message without an id": ({"messages": [CALL, {"role": "tool", "content": "4"}]}, "tool_call_id"),
    "a user that calls tools": (
        {"messages": [{**CALL, "role": "user", "content": "Hi"}]},
        "tool_calls need role assistant",
    ),
    "two calls with one id": (
        {"messages": [{"role": "assistant", "tool_calls": [{"id": "a", "name": "x"}, {"id": "a", "name": "y"}]}]},
        "different ids",
    ),
    "image without anything": (image(), "url or base64"),
    "image with both": (image(url="https://example.org/a", base64=PNG, media_type="image/png"), "not both"),
    "image that is no address": (image(url="tree.png"), "tree.png"),
    "image that is no base64": (image(base64="%%%", media_type="image/png"), "base64"),
    "image that is none": (
        image(base64=base64.b64encode(b"hello").decode(), media_type="image/png"),
        "not an image",
    ),
    "image of another kind": (image(base64=PNG, media_type="image/jpeg"), "image/png"),
    "image of no kind": (image(base64=PNG), "media_type"),
    "image of an odd kind": (image(base64=PNG, media_type="image/tiff"), "image/tiff"),
    "data address that is no image": (image(url="data:image/png;base64,aGVsbG8="), "not an image"),
    "two tools of one name": ({"tools": [{"name": "a"}, {"name": "a"}]}, "different names"),
    "a tool whose schema is none": ({"tools": [{"name": "a", "parameters": {"type": "thing"}}]}, "parameters.type"),
    "a choice of an unknown tool": ({"tools": [{"name": "a"}], "tool_choice": {"name": "b"}}, "'b'"),
    "a required tool where none is": ({"tool_choice": "required"}, "needs at least one tool"),
    "an unknown choice": ({"tool_choice": "perhaps"}, "tool_choice"),
    "an unknown field": ({"message": []}, "message"),
    "metadata that JSON cannot say": ({"metadata": {"a": float("nan")}}, "metadata"),
}


@pytest.mark.parametrize("case", BAD_PROMPTS)
def test_a_bad_prompt_is_refused(case: str) -> None:
    """The error is of our family and names what is wrong."""
    data, named = BAD_PROMPTS[case]

    with pytest.raises(InvalidRequest) as caught:
        read_record(Prompt, data)

    assert named in str(caught.value) or any(
        named in f"{problem['field']} {problem['message']}" for problem in caught.value.details["errors"]
    )


BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "temperature below 0": ({"temperature": -0.1}, "temperature"),
    "temperature that is none": ({"temperature": float("nan")}, "temperature"),
    "no tokens": ({"max_tokens": 0}, "max_tokens"),
    "top_p of 0": ({"top_p": 0}, "top_p"),
    "top_p above 1": ({"top_p": 1.01}, "top_p"),
    "top_k of 0": ({"top_k": 0}, "top_k"),
    "penalty too high": ({"frequency_penalty": 3}, "frequency_penalty"),
    "penalty too low": ({"presence_penalty": -2.5}, "presence_penalty"),
    "empty stop": ({"stop": ["a", ""]}, "stop"),
    "unknown format": ({"response_format": "xml"}, "response_format"),
    "schema of a wrong type": (
        {"response_format": "json_schema", "json_schema": {"type": "thing"}},
        "json_schema.type",
    ),
    "schema wrong inside": (
        {"response_format": "json_schema", "json_schema": {"properties": {"a": {"minLength": -1}}}},
        "json_schema.properties.a.minLength",
    ),
    "format without schema": ({"response_format": "json_schema"}, "json_schema"),
    "schema without format": ({"json_schema": {"type": "object"}}, "response_format"),
    "budget without thinking": ({"thinking_budget_tokens": 10}, "extended_thinking"),
    "top_logprobs without logprobs": ({"top_logprobs": 2}, "logprobs"),
    "no answers": ({"n": 0}, "n"),
    "no time": ({"timeout_ms": 0}, "timeout_ms"),
    "seed too large": ({"seed": 2**63}, "seed"),
    "unknown option": ({"temprature": 1}, "temprature"),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused(case: str) -> None:
    """Out of range, contradictory or unknown: the option is named."""
    data, named = BAD_OPTIONS[case]

    with pytest.raises(InvalidRequest, match=named.replace(".", r"\.")):
        read_record(Options, data)


def test_all_problems_are_listed() -> None:
    """The message names the first; the details list every one."""
    with pytest.raises(InvalidRequest) as caught:
        read_record(Options, {"top_p": 7, "top_k": -1})

    assert [problem["field"] for problem in caught.value.details["errors"]] == ["top_p", "top_k"]


def test_text_that_is_no_json_is_refused() -> None:
    """The same error, of the same family."""
    with pytest.raises(InvalidRequest, match="Options"):
        read_json(Options, "{")


GOOD_SCHEMAS: dict[str, dict[str, Any]] = {
    "nested": {
        "type": "object",
        "properties": {"a": {"type": ["string", "null"], "minLength": 1}, "b": {"$ref": "#/$defs/n"}},
        "required": ["a"],
        "additionalProperties": False,
        "$defs": {"n": {"type": "number", "exclusiveMinimum": 0, "multipleOf": 0.5}},
    },
    "choices": {"anyOf": [{"const": 1}, {"enum": ["x", None]}, True]},
    "lists": {"type": "array", "items": {"type": "integer"}, "minItems": 1, "uniqueItems": True},
    "unknown keyword": {"type": "string", "x-order": 3},
    "empty": {},
}


@pytest.mark.parametrize("case", GOOD_SCHEMAS)
def test_a_schema_is_taken(case: str) -> None:
    """What the standard allows is allowed."""
    taken = Options(response_format="json_schema", json_schema=GOOD_SCHEMAS[case])

    assert taken.json_schema == GOOD_SCHEMAS[case]


def test_a_tool_in_the_form_of_openai_is_the_same_tool() -> None:
    """Both ways to write a tool give one."""
    plain = {"name": "look", "parameters": {"type": "object"}}

    assert Prompt(tools=[{"type": "function", "function": plain}]) == Prompt(tools=[plain])


@pytest.mark.parametrize("value", [0, -3, 1.5])
def test_a_number_of_tokens_is_no_secret(value: float) -> None:
    """The error shows it; text in such a field, and a number in that of a secret, stay hidden."""
    with pytest.raises(InvalidRequest, match=rf"max_tokens: {value} is not allowed"):
        read_record(Options, {"max_tokens": value})
    with pytest.raises(InvalidRequest, match="hidden"):
        read_record(Options, {"max_tokens": "hf_abcdef"})
