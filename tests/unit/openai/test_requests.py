"""Round trip from the IR to a request and back: no field of the protocol is lost."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from backends.openai.requests import request_body
from crucible import ImagePart, Message, Options, Prompt, TextPart, Tool, ToolCall
from tests.strategies import names as line_of_text

texts = st.text(max_size=10)
names = line_of_text(max_size=8)
integers = st.integers(-(2**63), 2**63 - 1)
parts = st.builds(TextPart, text=texts) | st.builds(ImagePart, url=st.just("https://example.org/a.png"))
contents = texts | st.lists(parts, min_size=1, max_size=3)
arguments = st.dictionaries(names, integers | texts, max_size=2)


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """A conversation with tool calls and their results."""
    messages = [Message(role=draw(st.sampled_from(["system", "user"])), content=draw(contents))]
    for number in range(draw(st.integers(0, 2))):
        calls = [
            ToolCall(id=f"{number}.{index}", name=draw(names), arguments=draw(arguments))
            for index in range(draw(st.integers(0, 2)))
        ]
        said = draw(contents) if not calls else draw(st.none() | texts)
        messages.append(Message(role="assistant", content=said, tool_calls=calls, name=draw(st.none() | names)))
        messages += [Message(role="tool", tool_call_id=call.id, content=draw(texts)) for call in calls]
    tools = draw(st.lists(st.builds(Tool, name=names), max_size=2, unique_by=lambda tool: tool.name))
    options = draw(
        st.builds(
            Options,
            temperature=st.none() | st.floats(0, 2),
            top_p=st.none() | st.floats(0, 1, exclude_min=True),
            max_tokens=st.none() | st.integers(1, 99),
            stop=st.lists(names, max_size=2),
            seed=st.none() | st.integers(0, 99),
            n=st.integers(1, 3),
            top_k=st.none() | st.integers(1, 9),
            extra=st.dictionaries(
                st.sampled_from(["min_p", "best_of"]), st.integers(-(2**63), 2**63 - 1), max_size=2
            ),
        )
    )
    return Prompt(messages=messages, tools=tools, options=options)


def back(body: dict[str, Any]) -> Prompt:
    """The prompt of a request's body."""
    extra = dict(body.get("extra_body", {}))
    options = {
        name: body[name] for name in ("temperature", "top_p", "max_tokens", "stop", "seed", "n") if name in body
    }
    messages = [
        {
            **{key: value for key, value in wire.items() if key not in ("content", "tool_calls")},
            "content": _content_back(wire["content"]),
            "tool_calls": [
                {
                    "id": call["id"],
                    "name": call["function"]["name"],
                    "arguments": json.loads(call["function"]["arguments"]),
                }
                for call in wire.get("tool_calls", ())
            ],
        }
        for wire in body["messages"]
    ]
    tools = [{**tool["function"], "parameters": {}} for tool in body.get("tools", ())]
    return Prompt(
        messages=messages,
        tools=tools,
        options=Options(top_k=extra.pop("top_k", None), extra=extra, **options),
    )


def _content_back(content: Any) -> Any:
    if not isinstance(content, list):
        return content
    return [
        {"type": "text", "text": part["text"]}
        if part["type"] == "text"
        else {"type": "image", "url": part["image_url"]["url"]}
        for part in content
    ]


@given(prompts())
def test_a_request_says_all_that_the_prompt_said(prompt: Prompt) -> None:
    """Read back, it is the prompt."""
    assert back(json.loads(json.dumps(request_body(prompt, "m", "max_tokens", thinking="thinking")))) == prompt


def test_tool_results_among_parts_become_messages_of_their_own() -> None:
    """The protocol has one message for each, before the rest of the user's message."""
    prompt = Prompt(
        messages=[
            {"role": "assistant", "tool_calls": [{"id": "a", "name": "x"}, {"id": "b", "name": "y"}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_call_id": "a", "content": {"n": 1}},
                    {"type": "tool_result", "tool_call_id": "b", "content": "two"},
                    {"type": "text", "text": "Now sum up."},
                ],
            },
        ]
    )
    wire = request_body(prompt, "m", "max_tokens", thinking="thinking")["messages"]

    assert [message["role"] for message in wire] == ["assistant", "tool", "tool", "user"]
    assert [message["content"] for message in wire[1:3]] == ['{"n": 1}', "two"]
