"""Any prompt and any completion survive JSON, and any completion survives being streamed."""

import base64

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from crucible import (
    AudioPart,
    Choice,
    Completion,
    FinishReason,
    ImagePart,
    MalformedAnswer,
    Message,
    Options,
    Prompt,
    TextPart,
    Thinking,
    TokenLogprob,
    Tool,
    ToolCall,
    ToolResultPart,
    TopLogprob,
    Usage,
    UsageSource,
    events_of,
    fold,
    read_event,
)
from crucible.options import _FIELDS_ELSEWHERE
from tests.strategies import names as line_of_text

texts = st.text(max_size=12)
names = line_of_text(max_size=8)
ids = st.none() | names
counts = st.integers(0, 2**40)
finite = st.floats(allow_nan=False, allow_infinity=False)
jsons = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.dictionaries(texts, jsons, max_size=3)
extras = objects.filter(lambda extra: not ({*Options.model_fields, *_FIELDS_ELSEWHERE} & extra.keys()))
images = st.builds(ImagePart, url=st.just("https://example.org/a.png")) | st.builds(
    lambda tail: ImagePart(base64=base64.b64encode(b"\xff\xd8\xff" + tail).decode(), media_type="image/jpeg"),
    st.binary(max_size=20),
)
sounds = st.builds(AudioPart, url=st.just("https://example.org/a.wav"), format=ids)
parts = st.builds(TextPart, text=texts) | images | sounds
contents = texts | st.lists(parts, min_size=1, max_size=3)
calls = st.lists(
    st.builds(ToolCall, id=names, name=names, arguments=objects | texts), max_size=3, unique_by=lambda call: call.id
)
options = st.builds(
    Options,
    model=ids,
    temperature=st.none() | st.floats(0, 10),
    max_tokens=st.none() | st.integers(1, 10**9),
    top_p=st.none() | st.floats(0, 1, exclude_min=True),
    top_k=st.none() | st.integers(1, 10**6),
    frequency_penalty=st.none() | st.floats(-2, 2),
    stop=st.lists(names, max_size=3),
    response_format=st.sampled_from([None, "text", "json"]),
    stream=st.booleans(),
    cache_control=st.sampled_from([None, "ephemeral"]),
    extended_thinking=st.booleans(),
    seed=st.none() | st.integers(-(2**63), 2**63 - 1),
    timeout_ms=st.none() | st.integers(1, 10**7),
    n=st.integers(1, 1024),
    logprobs=st.booleans(),
    extra=extras,
)


@st.composite
def conversations(draw: st.DrawFn) -> list[Message]:
    """Turns in which every tool result follows its call."""
    messages = [Message(role=draw(st.sampled_from(["system", "user"])), content=draw(contents), name=draw(ids))]
    for number in range(draw(st.integers(0, 3))):
        made = draw(calls)
        messages.append(Message(role="assistant", content=draw(st.none() | contents), tool_calls=made))
        for call in made:
            as_part = ToolResultPart(tool_call_id=call.id, content=draw(jsons))
            if number % 2:
                messages.append(Message(role="tool", content=[as_part]))
            else:
                messages.append(Message(role="tool", tool_call_id=call.id, content=draw(texts)))
    return messages


prompts = st.builds(
    Prompt,
    messages=conversations(),
    system=st.none() | texts,
    tools=st.lists(
        st.builds(Tool, name=names, description=st.none() | texts, parameters=st.just({"type": "object"})),
        max_size=3,
        unique_by=lambda tool: tool.name,
    ),
    tool_choice=st.sampled_from([None, "auto", "none"]),
    options=options,
    request_id=ids,
    trace_id=ids,
    metadata=objects,
)

logprobs = st.builds(
    TokenLogprob,
    token=texts,
    token_id=st.none() | counts,
    logprob=st.none() | finite,
    top=st.lists(st.builds(TopLogprob, token=texts, logprob=finite), max_size=2),
)


@st.composite
def choices(draw: st.DrawFn) -> list[Choice]:
    """Answers in the order of their index, with gaps."""
    indexes = sorted(draw(st.sets(st.integers(0, 5), max_size=3)))
    return [
        Choice(
            index=index,
            message=Message(
                role="assistant", content=draw(st.none() | contents), tool_calls=draw(calls), name=draw(ids)
            ),
            finish_reason=draw(st.none() | st.sampled_from(FinishReason)),
            thinking=draw(st.none() | st.builds(Thinking, content=texts, tokens=st.none() | counts)),
            logprobs=draw(st.none() | st.lists(logprobs, max_size=2)),
            tokens=draw(st.none() | st.lists(counts, max_size=3)),
            raw_finish_reason=draw(ids),
        )
        for index in indexes
    ]


milliseconds = st.none() | st.floats(0, 1e9)
completions = st.builds(
    Completion,
    choices=choices(),
    model=ids,
    usage=st.none()
    | st.builds(
        Usage,
        prompt_tokens=counts,
        completion_tokens=counts,
        total_tokens=counts,
        thinking_tokens=st.none() | counts,
        cached_tokens=st.none() | counts,
        source=st.sampled_from(UsageSource),
    ),
    latency_ms=milliseconds,
    time_to_first_token_ms=milliseconds,
    request_id=ids,
    trace_id=ids,
    cost=st.none() | st.floats(0, 1e6),
    raw_response=jsons,
    metadata=objects,
)


@given(prompts)
def test_any_prompt_survives_json(prompt: Prompt) -> None:
    """Written and read again, a prompt is the same."""
    assert Prompt.model_validate_json(prompt.model_dump_json()) == prompt


@given(completions)
def test_any_completion_survives_json(completion: Completion) -> None:
    """Written and read again, a completion is the same."""
    assert Completion.model_validate_json(completion.model_dump_json()) == completion


@given(completions, st.integers(1, 7))
def test_folding_a_stream_gives_the_completion(completion: Completion, size: int) -> None:
    """However the texts are cut, the events add up to exactly the completion, also after a trip through JSON."""
    events = list(events_of(completion, piece_chars=size))

    assert fold(events) == completion
    assert fold([read_event(event.model_dump(mode="json")) for event in events]) == completion


@given(completions, st.data())
@settings(max_examples=25)
def test_a_stream_that_lost_an_event_is_refused(completion: Completion, data: st.DataObject) -> None:
    """No event may be missing, repeated or out of order without being noticed."""
    events = list(events_of(completion))
    lost = data.draw(st.integers(0, len(events) - 1))

    with pytest.raises(MalformedAnswer):
        fold(events[:lost] + events[lost + 1 :])
    with pytest.raises(MalformedAnswer):
        fold([*events[: lost + 1], *events[lost:]])


@given(st.dictionaries(texts, jsons, max_size=4))
def test_an_unknown_field_is_never_dropped(fields: dict[str, object]) -> None:
    """A field that no record knows is an error, so a typing mistake is seen."""
    unknown = set(fields) - set(Options.model_fields)
    if not unknown:
        return
    with pytest.raises(ValidationError):
        Options.model_validate(fields)
