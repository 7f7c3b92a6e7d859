"""From the IR to a request and back: the development model's template and the sampling parameters lose no field."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backends.tinkex.capabilities import ALL_FEATURES, capabilities_of, require_expressible
from backends.tinkex.sampling.rendered_prompt import model_input
from backends.tinkex.sampling.sampler import sampling_params
from backends.tinkex.types.model_input import EncodedTextChunk, ModelInput
from backends.tinkex.types.server_capabilities import ServerCapabilities
from crucible import ByteTokenizer, ImagePart, Message, Options, Prompt, TextPart, Tool, ToolCall, ToolResultPart
from crucible.errors import Unsupported
from crucible.rendering.chat import chat_of
from crucible.rendering.output_parser import parse_output
from crucible.rendering.tokenizer import ChatFeatures
from crucible.requirements import require

TOKENIZER = ByteTokenizer()
ROLES = {257: "system", 258: "user", 259: "assistant", 260: "tool"}
texts = st.text('aö \n{}"0', max_size=10)
names = st.text("xyzß", min_size=1, max_size=6)
jsons = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts | st.lists(texts, max_size=2)
images = st.builds(
    lambda tail: ImagePart(base64=base64.b64encode(b"\xff\xd8\xff" + tail).decode(), media_type="image/jpeg"),
    st.binary(max_size=9),
) | st.builds(ImagePart, url=st.sampled_from(["https://example.org/a.png", "https://example.org/b?c=d.jpeg"]),
              media_type=st.just("image/png"))  # fmt: skip


@st.composite
def contents(draw: st.DrawFn) -> Any:
    """Text, or texts with an image between each two."""
    if draw(st.booleans()):
        return draw(texts)
    parts: list[Any] = [draw(images)]
    if draw(st.booleans()):
        parts.append(TextPart(text="t" + draw(texts)))
        parts.append(draw(images))
    return parts


@st.composite
def prompts(draw: st.DrawFn) -> Prompt:
    """Conversations with tools, calls, results, images, names, and every option that travels."""
    messages = [Message(role="user", content=draw(contents()), name=draw(st.none() | names))]
    for number in range(draw(st.integers(0, 2))):
        calls = [
            ToolCall(
                id=f"{number}.{index}", name=draw(names), arguments=draw(st.dictionaries(names, jsons, max_size=2))
            )
            for index in range(draw(st.integers(0, 2)))
        ]
        content = draw(texts).strip()
        messages.append(Message(role="assistant", content=content or (None if calls else ""), tool_calls=calls))
        messages += [
            Message(role="tool", content=[ToolResultPart(tool_call_id=call.id, content=draw(jsons))])
            for call in calls
        ]
    tools = st.builds(Tool, name=names, description=st.none() | texts, parameters=st.just({"type": "object"}))
    options = st.builds(
        Options,
        temperature=st.none() | st.floats(0, 2),
        max_tokens=st.none() | st.integers(1, 99),
        top_p=st.none() | st.floats(0.1, 1),
        top_k=st.none() | st.integers(1, 9),
        seed=st.none() | st.integers(0, 99),
        extended_thinking=st.booleans(),
    )
    return Prompt(
        system=draw(st.none() | texts),
        messages=messages,
        tools=draw(st.lists(tools, max_size=2, unique_by=lambda tool: tool.name)),
        options=draw(options),
    )


def back(given_input: ModelInput, params: dict[str, Any]) -> Prompt:
    """The prompt that a request says."""
    turns, thinks = turns_of(given_input)
    tools: list[Any] = []
    if turns[0][0] == "system" and "".join(turns[0][1]).startswith("<tools>"):
        tools = json.loads(turns.pop(0)[1][0].removeprefix("<tools>").removesuffix("</tools>"))
    system = "".join(turns.pop(0)[1]) if turns[0][0] == "system" else None
    kept = {name: params[name] for name in ("max_tokens", "seed") if params[name] is not None}
    return Prompt(
        system=system,
        messages=[message_of(role, parts) for role, parts in turns],
        tools=tools,
        options=Options(
            temperature=params["temperature"],
            top_p=params["top_p"],
            top_k=params["top_k"] if params["top_k"] > 0 else None,
            extended_thinking=thinks,
            **kept,
        ),
    )


def turns_of(given_input: ModelInput) -> tuple[list[tuple[str, list[Any]]], bool]:
    """Each turn's role and parts, and whether the assistant is to think."""
    turns: list[tuple[str, list[Any]]] = []
    run: list[int] = []

    def settle() -> None:
        if run:
            turns[-1][1].append(TOKENIZER.decode(run))
            run.clear()

    for chunk in given_input.chunks:
        if not isinstance(chunk, EncodedTextChunk):
            settle()
            turns[-1][1].append(chunk)
            continue
        for token in chunk.tokens:
            if token < 256:
                run.append(token)
                continue
            settle()
            if token in ROLES:
                turns.append((ROLES[token], []))
    settle()
    role, last = turns.pop()
    assert role == "assistant"
    return turns, last == ["<think>"]


def message_of(role: str, parts: list[Any]) -> Message:
    """A turn as the message that it was."""
    if role == "tool":
        return Message(role="tool", content=[{"type": "tool_result", **json.loads("".join(parts))}])
    name = None
    if parts and isinstance(parts[0], str) and parts[0].startswith("<name>"):
        name, _, rest = parts[0].removeprefix("<name>").partition("</name>")
        parts = [*([rest] if rest else []), *parts[1:]]
    if role == "assistant":
        spoken = parse_output("".join(parts), thinks=False, opened=False, calls=True, turn=0)
        content = spoken.content or (None if spoken.tool_calls else "")
        return Message(role="assistant", content=content, tool_calls=spoken.tool_calls)
    if all(isinstance(part, str) for part in parts):
        return Message(role=role, content="".join(parts), name=name)
    return Message(role=role, content=[_part(part) for part in parts], name=name)


def _part(part: Any) -> Any:
    if isinstance(part, str):
        return TextPart(text=part)
    if part.type == "image":
        return ImagePart(base64=base64.b64encode(part.data).decode(), media_type=f"image/{part.format}")
    return ImagePart(url=part.location, media_type=f"image/{part.format}")


def as_sent(prompt: Prompt) -> Prompt:
    """The prompt with what the service takes in place of what was left to it."""
    options = prompt.options.model_copy(
        update={
            "temperature": 1.0 if prompt.options.temperature is None else prompt.options.temperature,
            "top_p": 1.0 if prompt.options.top_p is None else prompt.options.top_p,
        }
    )
    return prompt.model_copy(update={"options": options})


@given(prompts())
@settings(max_examples=80)
def test_a_request_says_all_that_the_prompt_said(prompt: Prompt) -> None:
    """Read back, it is the prompt."""
    require(
        prompt,
        capabilities_of(
            ServerCapabilities.model_validate({"supported_models": [{"model_name": "m"}]}), ALL_FEATURES
        ),
    )
    require_expressible(prompt, TOKENIZER.features)
    given_input = model_input(chat_of(prompt), TOKENIZER)
    params = sampling_params(prompt.options, TOKENIZER).model_dump()

    assert back(given_input, params) == as_sent(prompt)


def rendered_by_a_model_without_names(prompt: Prompt) -> ModelInput:
    """As far as it comes."""
    require_expressible(prompt, ChatFeatures(tools=True, thinking=True))
    return model_input(chat_of(prompt), TOKENIZER)


PIXEL = "data:image/gif;base64,R0lGODlhAQABAAAAACwAAAAAAQABAAA="


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"tools": [{"name": "a"}], "tool_choice": "required"}, "tool_choice"),
        ({"tools": [{"name": "a"}], "tool_choice": {"name": "a"}}, "tool_choice"),
        ({"tools": [{"name": "b"}, {"name": "a", "strict": True}]}, r"tools\[1\]\.strict"),
        ({"options": {"extended_thinking": True, "thinking_budget_tokens": 9}}, "options.thinking_budget_tokens"),
        ({"messages": [{"role": "user", "content": "x", "name": "Ann"}]}, r"messages\[0\]\.name"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": PIXEL}]}]},
            r"messages\[0\]\.content\[0\].*image/gif",
        ),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "url": "https://example.org/a"}]}]},
            r"messages\[0\]\.content\[0\].*media_type",
        ),
    ],
    ids=["required", "named", "strict", "budget", "name", "gif", "unknown image"],
)
def test_what_no_request_can_say_is_refused(changes: dict[str, Any], field: str) -> None:
    """Naming the field, before anything is sent."""
    prompt = Prompt.model_validate({"messages": [{"role": "user", "content": "x"}], **changes})
    with pytest.raises(Unsupported, match=field) as caught:
        rendered_by_a_model_without_names(prompt)

    assert caught.value.backend == "tinkex"
    assert caught.value.details["field"]


def test_tools_that_may_not_be_called_are_not_offered() -> None:
    """tool_choice none is kept by not telling the model of them."""
    messages = [{"role": "user", "content": "x"}]
    plain = Prompt(messages=messages)
    barred = Prompt(messages=messages, tools=[{"name": "a"}], tool_choice="none")

    assert model_input(chat_of(barred), TOKENIZER) == model_input(chat_of(plain), TOKENIZER)
