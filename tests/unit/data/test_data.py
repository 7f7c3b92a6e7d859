"""Training data: every mistake is found at submit, and the error names file, line and field."""

import gc
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.data.dataset import load_data, pin_data
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.payloads import TrainingData

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def source(folder: Path, content: str | bytes, name: str = "data.jsonl") -> TrainingData:
    """Write a file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return TrainingData(path=str(path))


def messages(*turns: object) -> str:
    """Return a line with these messages."""
    return json.dumps({"messages": turns}) + "\n"


BAD = {
    "empty": ("", "holds no example"),
    "blank lines": ("\n \n", "holds no example"),
    "broken line": (GOOD + GOOD + '{"messages": [\n', "line 3: is not JSON"),
    "not JSON at all": ("once upon a time\n", "line 1: is not JSON"),
    "a list": ("[1]\n", "line 1: is a JSON list"),
    "a number": ("1\n", "line 1: is a JSON int"),
    "no field": ("{}\n", "line 1: fits no format: its fields are none"),
    "unknown fields": (
        '{"question": "x", "output": "y", "instructions": "z"}\n',
        (
            "its fields are instructions, output, question; nearest is alpaca, which has instruction and output; "
            "did you mean instruction?"
        ),
    ),
    "misspelt field": ('{"txt": "x"}\n', "nearest is text, which has text; did you mean text?"),
    "misspelt beside": (
        '{"messages": [], "tool": []}\n',
        (
            "tool is an unknown field; did you mean tools? fields of messages are messages, tools, weight; "
            "data.ignore drops a field"
        ),
    ),
    "both": ('{"text": "x", "messages": []}\n', "line 1: text is an unknown field"),
    "no messages": (GOOD + '{"messages": []}\n', "line 2: messages: List should have at least 1 item"),
    "messages is text": ('{"messages": "x"}\n', "line 1: messages: Input should be a list"),
    "message is text": (messages("x"), "line 1: messages[0]: Input should be a mapping of its fields"),
    "unknown role": (GOOD + messages({"role": "bot", "content": "x"}), "line 2: messages[0].role: Input should be"),
    "no role": (messages({"content": "x"}), "line 1: messages[0].role is missing"),
    "no content": (messages({"role": "user"}), "line 1: messages[0]: a message with role user needs content"),
    "empty content": (messages({"role": "user", "content": ""}), "line 1: messages[0]: content is empty"),
    "empty answer": (
        messages({"role": "user", "content": "x"}, {"role": "assistant", "content": ""}),
        "line 1: messages[1]: content is empty",
    ),
    "content is a list": (messages({"role": "user", "content": []}), "line 1: messages[0]: content is empty"),
    "misspelt in message": (
        messages({"role": "user", "content": "x", "wieght": 1}),
        "line 1: messages[0].wieght is unknown; did you mean weight?",
    ),
    "negative weight": (
        messages({"role": "assistant", "content": "x", "weight": -1}),
        "line 1: messages[0].weight: Input should be greater than or equal to 0; got -1",
    ),
    "weight as text": (messages({"role": "assistant", "content": "x", "weight": "1"}), "messages[0].weight: "),
    "weight and train": (
        messages({"role": "assistant", "content": "x", "weight": 1, "train": False}),
        "line 1: messages[0]: weight and train say the same",
    ),
    "nothing trained": (
        messages({"role": "assistant", "content": "x", "weight": 0}),
        "line 1: has no message with a loss weight",
    ),
    "part misspelt": (
        messages({"role": "assistant", "content": [{"type": "text", "text": "x", "wait": 1}]}),
        "line 1: messages[0].content[0].wait is unknown",
    ),
    "prefill of a user": (
        messages({"role": "user", "content": "x", "prefill": "y"}, {"role": "assistant", "content": "x"}),
        "line 1: messages[0]: prefill begins the content of an assistant's message",
    ),
    "an image": (
        messages({"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://x.org/a.png"}}]}),
        "line 1: messages[0].content[0]: url 'https://x.org/a.png' is not fetched",
    ),
    "a result without a call": (
        messages({"role": "tool", "tool_call_id": "c9", "content": "x"}, {"role": "assistant", "content": "x"}),
        "line 1: messages[0]: tool result 'c9' has no earlier tool call",
    ),
    "no assistant": (messages({"role": "user", "content": "x"}), "line 1: has no assistant message"),
    "a prompt alone": ('{"prompt": "x"}\n', "line 1: is a prompt without an answer"),
    "a preference": (
        '{"prompt": "x", "chosen": "a", "rejected": "b"}\n',
        "line 1: is a preference (chosen, rejected), which sft does not train on",
    ),
    "unknown author": (
        '{"conversations": [{"from": "gtp", "value": "x"}]}\n',
        "line 1: conversations[0].from: is unknown; did you mean gpt?",
    ),
    "an observation without a call": (
        '{"conversations": [{"from": "observation", "value": "x"}, {"from": "gpt", "value": "x"}]}\n',
        "line 1: conversations[0].value answers no function_call",
    ),
    "no function call": (
        '{"conversations": [{"from": "function_call", "value": "x"}]}\n',
        "line 1: conversations[0].value is not a function call",
    ),
    "empty text": ('{"text": ""}\n', "line 1: text: String should have at least 1 character"),
    "not UTF-8": (GOOD.encode() + b'{"text": "\xff"}\n', "line 2: is not UTF-8"),
    "nested too deep": ("[" * 100_000 + "\n", "line 1: is not JSON"),
    "a field twice": (
        GOOD + '{"text": "a", "text": "b"}\n',
        "line 2: has the field 'text' twice; leave one of them",
    ),
    "messages twice": (GOOD[:-2] + ", " + GOOD[1:], "line 1: has the field 'messages' twice"),
    "content twice": (GOOD.replace('"role"', '"content": "x", "role"', 1), "line 1: has the field 'content' twice"),
    "a field of a call twice": (
        messages({"role": "assistant", "content": "x"}).replace("}]", ', "tool_calls": [{"id": "1", "id": "2"}]}]'),
        "line 1: has the field 'id' twice",
    ),
    "a field of tools as text twice": (
        GOOD[:-2] + r', "tools": "[{\"name\": \"a\", \"name\": \"b\"}]"}' + "\n",
        "line 1: tools: is JSON that has the field 'name' twice",
    ),
    "a number as a prompt": (
        '{"prompt": 5, "completion": "x"}\n',
        "line 1: prompt: is neither text nor a list of messages; got 5",
    ),
    "truth as a completion": (
        '{"prompt": "x", "completion": true}\n',
        "line 1: completion: is neither text nor a list of messages; got True",
    ),
    "an answer of another name": (
        '{"prompt": "x", "response": "y"}\n',
        "line 1: response is an unknown field; fields of prompt_completion are prompt, completion,",
    ),
    "lone surrogate in a prompt": (
        '{"prompt": "\\ud800", "completion": "x"}\n',
        "line 1: prompt[0].content: must not contain a lone surrogate",
    ),
    "lone surrogate": ('{"text": "\\ud800"}\n', "line 1: text: must not contain a lone surrogate"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_names_line_and_field(tmp_path: Path, case: str) -> None:
    """The error names the location, the mistake and the allowed values."""
    content, complaint = BAD[case]
    with pytest.raises(InvalidJob) as caught:
        load_data(source(tmp_path, content))
    assert complaint in caught.value.message
    assert "data.jsonl" in caught.value.message
    assert caught.value.details["field"] == "payload.data.path"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """The error names the state of the path and the expected one."""
    with pytest.raises(InvalidJob, match=r"nothing\.jsonl: does not exist; name an existing file"):
        pin_data(TrainingData(path=str(tmp_path / "nothing.jsonl")))
    with pytest.raises(InvalidJob, match="is a directory"):
        pin_data(TrainingData(path=str(tmp_path)))


def test_pinning_makes_the_source_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in another directory opens the same file, and verifies its content."""
    source(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    pinned = pin_data(TrainingData(path="data.jsonl"))
    assert pinned.path == str(tmp_path / "data.jsonl")
    assert pinned.sha256 is not None
    assert pin_data(TrainingData(path="data.jsonl"), base=tmp_path) == pinned
    assert pin_data(pinned) == pinned


@pytest.mark.parametrize("content", [GOOD + GOOD, "", "broken"], ids=["longer", "empty", "broken"])
def test_changed_data_is_told_from_bad_data(tmp_path: Path, content: str) -> None:
    """A file that was valid at submit is reported as changed, not as invalid, whatever it contains now."""
    pinned = pin_data(source(tmp_path, GOOD))
    gc.collect()
    source(tmp_path, content)
    with pytest.raises(DataChanged, match="sha256"):
        load_data(pinned)


def test_text_is_one_example_a_paragraph(tmp_path: Path) -> None:
    """Blank lines separate paragraphs; each example has the line where it starts."""
    dataset = load_data(source(tmp_path, "one\ntwo\n\n\nthree\n", "story.txt"))
    assert [(example.content, example.line) for example in dataset.examples] == [("one\ntwo", 1), ("three", 5)]


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Byte order marks and line endings of other programs are accepted."""
    row = '{"text": "hello"}\n'
    assert load_data(source(tmp_path, b"\xef\xbb\xbf" + row.encode())).examples[0].content == "hello"


def test_runs_of_a_process_share_one_copy(tmp_path: Path) -> None:
    """Equal content is cached once, whatever its path, and dropped with its last user."""
    pinned = pin_data(source(tmp_path, GOOD, "a.jsonl"))
    first = load_data(pinned)
    assert load_data(pin_data(source(tmp_path, GOOD, "b.jsonl"))) is first
    assert load_data(pinned.model_copy(update={"train_on": "all_tokens"})) is not first
    (tmp_path / "a.jsonl").unlink()
    assert load_data(pinned) is first, "what is held needs no file"
    del first
    gc.collect()
    with pytest.raises(InvalidJob, match="does not exist"):
        load_data(pinned)


ROLES = ("system", "user", "assistant", "tool")
TURN = st.fixed_dictionaries({"role": st.sampled_from(ROLES), "content": st.text(min_size=1, max_size=30)})


@given(st.lists(st.lists(TURN, min_size=1, max_size=4), min_size=1, max_size=5))
def test_whatever_is_valid_is_read_back(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[dict[str, str]]]
) -> None:
    """Any conversation with an assistant message is valid."""
    rows = [[*row, {"role": "assistant", "content": "yes"}] for row in rows]
    content = "".join(json.dumps({"messages": row}) + "\n" for row in rows)
    dataset = load_data(source(tmp_path_factory.mktemp("data"), content))
    assert [list(example.content) for example in dataset.examples] == rows


def test_all_bad_rows_are_reported_at_once(tmp_path: Path) -> None:
    """With their lines; the first twenty, and how many there are."""
    good, bad = '{"text": "a"}\n', '{"text": ""}\n'
    with pytest.raises(InvalidJob, match=r"data\.jsonl: 5 of 40 rows are bad:\nline 4: text: String") as caught:
        load_data(source(tmp_path, "".join(bad if line in (4, 9, 17, 22, 40) else good for line in range(1, 41))))
    assert caught.value.details["lines"] == [4, 9, 17, 22, 40]

    with pytest.raises(InvalidJob, match=r"\n\.\.\. and 30 more") as caught:
        load_data(source(tmp_path, bad * 50))
    assert caught.value.details["lines"] == list(range(1, 21))
    assert caught.value.details["count"] == 50
