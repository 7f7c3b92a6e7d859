"""What a model said is taken apart without losing a word, and what is not well formed stays as it was."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crucible.rendering.output_parser import ParsedOutput, parse_output

GOOD = '<tool_call>\n{"name": "look", "arguments": {"at": "</tool_call>"}}\n</tool_call>'


def spoken(text: str, **how: bool) -> ParsedOutput:
    """Taken apart, with tool calls and without thinking unless told otherwise."""
    return parse_output(text, **{"thinks": False, "opened": False, "calls": True, **how}, turn=3)


def test_calls_are_found_among_text() -> None:
    """In order, with ids of their own where they have none; what is said around them is the content."""
    with_id = '<tool_call>{"id": "mine", "name": "go", "arguments": {}}</tool_call>'
    found = spoken(f"I look.\n{GOOD}\n{with_id}")

    assert found.content == "I look."
    assert [(call.id, call.name, call.arguments) for call in found.tool_calls] == [
        ("call-3-0", "look", {"at": "</tool_call>"}),
        ("mine", "go", {}),
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<tool_call>{not json}</tool_call>",
        '<tool_call>{"name": "look", "arguments": {}}',
        '<tool_call>{"name": "look", "arguments": "{}"}</tool_call>',
        '<tool_call>{"name": "", "arguments": {}}</tool_call>',
        '<tool_call>{"arguments": {}}</tool_call>',
        '<tool_call>["look"]</tool_call>',
        '<tool_call>{"name": "look", "arguments": {"a": NaN}}</tool_call>',
        '<tool_call>{"name": "look", "arguments": {"a": 1e999}}</tool_call>',
        "<tool_call>" + "[" * 100_000,
        "no call",
    ],
    ids=["no json", "cut", "text", "no name", "nameless", "list", "nan", "infinite", "deep", "plain"],
)
def test_a_malformed_call_stays_text(text: str) -> None:
    """To the letter."""
    assert spoken(text) == ParsedOutput(text)


def test_a_good_call_beside_a_bad_one_is_found() -> None:
    """The bad one is left in the text."""
    bad = "<tool_call>{oops}</tool_call>"
    found = spoken(f"{bad}{GOOD}")

    assert (found.content, len(found.tool_calls)) == (bad, 1)


def test_two_calls_with_one_id_get_two() -> None:
    """A message holds no two calls with the same id."""
    twice = '<tool_call>{"id": "call-3-1", "name": "go"}</tool_call>' * 2

    assert len({call.id for call in spoken(twice).tool_calls}) == 2


@pytest.mark.parametrize(
    ("text", "how", "content", "thinking"),
    [
        ("<think>\nHm.\n</think>\n\nYes.", {"thinks": True}, "Yes.", "Hm."),
        ("Hm.</think>Yes.", {"opened": True}, "Yes.", "Hm."),
        ("<think>Hm", {"thinks": True}, "", "Hm"),
        ("Yes.", {"thinks": True}, "Yes.", None),
        ("<think>Hm.</think>Yes.", {}, "<think>Hm.</think>Yes.", None),
    ],
    ids=["whole", "opened by the template", "cut", "none", "not asked"],
)
def test_thinking_is_parted_from_the_answer(
    text: str, how: dict[str, bool], content: str, thinking: str | None
) -> None:
    """Where it was asked for, or the template began it."""
    assert spoken(text, **how) == ParsedOutput(content, thinking)


@given(
    said=st.text("ab <>/{}", max_size=12),
    calls=st.lists(
        st.tuples(
            st.text(min_size=1, max_size=5),
            st.dictionaries(st.text(max_size=4), st.none() | st.integers() | st.text(max_size=5), max_size=3),
        ),
        min_size=1,
        max_size=3,
    ),
)
@settings(max_examples=80)
def test_any_call_comes_back(said: str, calls: list[tuple[str, dict[str, object]]]) -> None:
    """With its name and its arguments, whatever they hold."""
    written = "".join(
        f"<tool_call>{json.dumps({'name': name, 'arguments': arguments})}</tool_call>" for name, arguments in calls
    )
    found = spoken(said + written)

    assert [(call.name, call.parsed_arguments()) for call in found.tool_calls] == calls
    assert found.content == said.strip()
