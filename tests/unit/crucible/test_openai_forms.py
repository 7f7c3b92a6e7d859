"""Prompts in the form of OpenAI's API are taken, thinking and refusals go back, and ``extra`` replaces nothing."""

from typing import Any

import pytest
from pydantic import ValidationError

from backends.openai.requests import request_body
from crucible import ByteTokenizer, Choice, Message, Options, Prompt, Thinking
from crucible.prompt import AudioPart, ImagePart, Role
from crucible.rendering.chat import chat_of

CALL = {"id": "c", "type": "function", "function": {"name": "weather", "arguments": '{"town": "Ulm"}'}}
PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACw="
SCHEMA = {"type": "object", "properties": {"town": {"type": "string"}}}


def test_a_tool_call_in_openais_form_is_taken() -> None:
    """As the response of OpenAI's library, and its result."""
    prompt = Prompt.model_validate(
        {
            "messages": [
                {"role": "developer", "content": "Be brief."},
                {"role": "user", "content": "Weather?"},
                {"role": "assistant", "content": None, "tool_calls": [CALL], "refusal": None},
                {"role": "tool", "tool_call_id": "c", "content": "Rain"},
            ]
        }
    )
    call = prompt.messages[2].tool_calls[0]

    assert (call.id, call.name, call.parsed_arguments()) == ("c", "weather", {"town": "Ulm"})
    wire = request_body(prompt, "m", "max_tokens", thinking=None)["messages"]
    assert [message["role"] for message in wire] == ["developer", "user", "assistant", "tool"]
    assert wire[2]["tool_calls"] == [CALL]


@pytest.mark.parametrize(
    "call", [{**CALL, "type": "custom"}, {**CALL, "extra": 1}, {"id": "c", "function": "weather"}]
)
def test_another_form_of_a_tool_call_is_refused(call: dict[str, Any]) -> None:
    """Nothing of it is dropped."""
    with pytest.raises(ValidationError):
        Message.model_validate({"role": "assistant", "tool_calls": [call]})


def test_images_and_audio_in_openais_form_are_taken() -> None:
    """With the resolution, which is sent."""
    parts = [
        {"type": "text", "text": "?"},
        {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": "high"}},
        {"type": "image_url", "image_url": PIXEL},
        {"type": "input_audio", "input_audio": {"data": "AAAA", "format": "mp3"}},
    ]
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": parts}]})

    assert prompt.messages[0].parts()[1:] == (
        ImagePart(url="https://example.org/a.png", detail="high"),
        ImagePart(url=PIXEL),
        AudioPart(base64="AAAA", format="mp3"),
    )
    content = request_body(prompt, "m", "max_tokens", thinking=None)["messages"][0]["content"]
    assert content[1] == parts[1]
    assert content[2] == {"type": "image_url", "image_url": {"url": PIXEL}}
    assert content[3] == parts[3]


@pytest.mark.parametrize("detail", ["finest", 5])
def test_an_unknown_resolution_is_refused(detail: object) -> None:
    """Naming the field."""
    part = {"type": "image_url", "image_url": {"url": "https://example.org/a.png", "detail": detail}}
    with pytest.raises(ValidationError, match="detail"):
        Message.model_validate({"role": "user", "content": [part]})


def test_a_response_format_in_openais_form_is_taken() -> None:
    """With its name and ``strict``, which are sent."""
    wrapped = {"name": "place", "description": "A town.", "schema": SCHEMA, "strict": True}
    for options in (
        {"response_format": {"type": "json_schema", "json_schema": wrapped}},
        {"response_format": "json_schema", "json_schema": wrapped},
    ):
        prompt = Prompt.model_validate({"messages": [{"role": "user", "content": "?"}], "options": options})

        assert prompt.options.json_schema == SCHEMA
        assert prompt.options.json_schema_strict is True
        body = request_body(prompt, "m", "max_tokens", thinking=None)
        assert body["response_format"] == {"type": "json_schema", "json_schema": wrapped}
        assert Prompt.model_validate_json(prompt.model_dump_json()) == prompt


@pytest.mark.parametrize(("form", "expected"), [("json_object", "json"), ("text", "text")])
def test_other_response_formats_in_openais_form_are_taken(form: str, expected: str) -> None:
    """By their type."""
    assert Options.model_validate({"response_format": {"type": form}}).response_format == expected


@pytest.mark.parametrize(
    "options",
    [
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        {"response_format": {"type": "json_object", "depth": 3}},
        {"response_format": {"type": "grammar"}},
        {"json_schema_strict": True},
        {"response_format": "json_schema", "json_schema": {"schema": SCHEMA, "name": "a b"}},
        {"response_format": "json_schema", "json_schema": {"schema": SCHEMA, "name": "a"}, "json_schema_name": "b"},
    ],
)
def test_another_response_format_is_refused(options: dict[str, Any]) -> None:
    """A wrapper without a schema is read as a schema of its own; its ``name`` is no keyword and forbids nothing."""
    if options.get("response_format") == {"type": "json_schema", "json_schema": {"name": "a"}}:
        assert Options.model_validate(options).json_schema == {"name": "a"}
        return
    with pytest.raises(ValidationError):
        Options.model_validate(options)


@pytest.mark.parametrize(
    "name",
    [
        *Options.model_fields,
        *("messages", "tools", "functions", "tool_choice", "max_completion_tokens", "stream_options", "system"),
    ],
)
def test_extra_cannot_replace_what_was_checked(name: str) -> None:
    """Every option and every field of the prompt, by name."""
    with pytest.raises(ValidationError, match=f"'{name}' is not allowed here; set "):
        Options.model_validate({"extra": {name: 1}})


def test_thinking_goes_back_with_the_next_turn() -> None:
    """In the server's own field, and in a chat template's."""
    message = Message(role=Role.ASSISTANT, content="Hello.")
    turn = Choice(message=message, thinking=Thinking(content="They greet me.")).turn()
    prompt = Prompt(messages=[{"role": "user", "content": "Hi"}, turn, {"role": "user", "content": "Bye"}])

    wire = request_body(prompt, "m", "max_tokens", thinking="reasoning_content")["messages"]
    assert wire[1] == {"role": "assistant", "content": "Hello.", "reasoning_content": "They greet me."}
    text = ByteTokenizer().decode(ByteTokenizer().render_chat(chat_of(prompt)))
    assert "<think>They greet me.</think>Hello." in text
    assert Choice(message=message).turn() == message


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_thinking_is_taken_from_any_field(field: str) -> None:
    """Of the assistant alone."""
    assert Message.model_validate({"role": "assistant", "content": "a", field: "b"}).thinking == "b"
    assert Message.model_validate({"role": "assistant", "content": "a", field: None}).thinking is None
    with pytest.raises(ValidationError, match="thinking needs role assistant"):
        Message.model_validate({"role": "user", "content": "a", field: "b"})


def test_a_refusal_is_the_text_of_its_turn() -> None:
    """In chat templates too; at OpenAI it stays what it is."""
    prompt = Prompt(
        messages=[
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "refusal": "I will not."},
            {"role": "user", "content": "Why?"},
        ]
    )

    assert prompt.messages[1].text() == "I will not."
    assert chat_of(prompt).messages[1]["content"] == "I will not."
    wire = request_body(prompt, "m", "max_tokens", thinking=None)["messages"][1]
    assert wire == {"role": "assistant", "content": None, "refusal": "I will not."}


def test_a_developers_turn_is_the_systems_in_templates() -> None:
    """Which know no developer."""
    prompt = Prompt(messages=[{"role": "developer", "content": "Be brief."}, {"role": "user", "content": "Hi"}])

    assert [turn["role"] for turn in chat_of(prompt).messages] == ["system", "user"]
