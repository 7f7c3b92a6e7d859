"""Each field of a request changes the prompt, or is refused unless it asks for nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crucible import Prompt
from crucible.errors import InvalidRequest
from nsai_work.chat_server.requests import ChatRequest, prompt_of, read_request

LEAST = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
TOOL = {"type": "function", "function": {"name": "go"}}

HONOURED: dict[str, object] = {
    "model": "other",
    "messages": [{"role": "system", "content": "Be brief."}, *LEAST["messages"]],
    "tools": [TOOL],
    "tool_choice": "none",
    "n": 2,
    "max_tokens": 7,
    "max_completion_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.5,
    "top_k": 5,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "stop": "x",
    "seed": 3,
    "logprobs": True,
    "top_logprobs": 2,
    "response_format": {"type": "json_object"},
    "extended_thinking": True,
}
"""Another value than the default of each field that the prompt has."""
BESIDE: dict[str, dict[str, object]] = {"top_logprobs": {"logprobs": True}, "stream_options": {"stream": True}}
OF_THE_ANSWER = {"stream": True, "stream_options": {"include_usage": True}}
"""Fields that decide how the answer is sent; the tests with the official client show each."""
OF_THE_LOG = {"user": "me"}
"""Fields that change nothing of the answer; test_bounds.py shows the line of the log."""
ASKS_FOR_NOTHING: dict[str, tuple[object, object]] = {
    "store": (False, True),
    "parallel_tool_calls": (True, False),
    "service_tier": ("auto", "flex"),
    "modalities": (["text"], ["text", "audio"]),
    "logit_bias": ({}, {"5": 1}),
    "metadata": ({}, {"a": "b"}),
}
"""A value that asks for nothing, and one that would be lost."""


def prompt(**fields: object) -> Prompt:
    """The prompt of a request with these fields."""
    request = read_request({**LEAST, **fields})
    return prompt_of(request, request.model)


def test_every_field_is_in_one_of_the_tables() -> None:
    """And no other."""
    assert {*HONOURED, *OF_THE_ANSWER, *OF_THE_LOG, *ASKS_FOR_NOTHING} == set(ChatRequest.model_fields)


@pytest.mark.parametrize("name", HONOURED)
def test_a_field_that_is_honoured_is_in_the_prompt(name: str) -> None:
    """The prompt differs by it, and null is the same as no field."""
    beside = BESIDE.get(name, {})
    assert prompt(**beside, **{name: HONOURED[name]}) != prompt(**beside)
    if name not in LEAST:
        assert prompt(**beside, **{name: None}) == prompt(**beside)


@pytest.mark.parametrize("name", ASKS_FOR_NOTHING)
def test_a_field_without_a_use_is_accepted_only_if_it_asks_for_nothing(name: str) -> None:
    """Any other value is refused by the field's name."""
    nothing, something = ASKS_FOR_NOTHING[name]
    assert prompt(**{name: nothing}) == prompt()
    with pytest.raises(InvalidRequest, match=name):
        prompt(**{name: something})


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30), st.integers(1, 3))
def test_any_other_field_is_refused_by_its_name(name: str, value: int) -> None:
    """Also where it is null but for the value."""
    if name not in ChatRequest.model_fields:
        with pytest.raises(InvalidRequest) as caught:
            prompt(**{name: value})
        assert [error["message"].partition(";")[0] for error in caught.value.details["errors"]] == ["unknown field"]


def test_an_answer_goes_back_as_clients_keep_it() -> None:
    """Fields that are empty or null are no content of the conversation; the numbers of calls are their order."""
    call = {"id": "c1", "type": "function", "function": {"name": "go", "arguments": "{}", "parsed_arguments": None}}
    kept = {
        "role": "assistant",
        "content": None,
        "refusal": None,
        "annotations": [],
        "audio": None,
        "provider_specific_fields": {"refusal": None},
        "function_call": None,
        "tool_calls": [{**call, "index": 0}],
    }
    result = {"role": "tool", "tool_call_id": "c1", "content": "done"}
    [_, answer, _] = prompt(messages=[*LEAST["messages"], kept, result]).messages

    assert (answer.content, answer.tool_calls[0].id, answer.tool_calls[0].arguments) == (None, "c1", "{}")
    for change in ({"annotations": [{"type": "url_citation"}]}, {"tool_calls": [{**call, "index": 1}]}):
        with pytest.raises(InvalidRequest, match=r"annotations|index"):
            prompt(messages=[*LEAST["messages"], {**kept, **change}, result])


def test_a_tool_may_be_named() -> None:
    """In the form of the API."""
    choice = {"type": "function", "function": {"name": "go"}}
    assert prompt(tools=[TOOL], tool_choice=choice).tool_choice.name == "go"
    for wrong in ({"type": "function"}, {"type": "custom", "custom": {"name": "go"}}, "sometimes"):
        with pytest.raises(InvalidRequest, match="tool_choice"):
            prompt(tools=[TOOL], tool_choice=wrong)
