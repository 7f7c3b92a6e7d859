"""Training data: every mistake is found at submit, and the error names file, line and field."""

import gc
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.payloads import DataSource
from nsai_work.training.data import ROLES, load_data, pin_data

GOOD = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]}\n'


def source(folder: Path, content: str | bytes, name: str = "data.jsonl") -> DataSource:
    """Write a file."""
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return DataSource(path=str(path))


def messages(*turns: object) -> str:
    """Return a line with these messages."""
    return json.dumps({"messages": turns}) + "\n"


BAD = {
    "empty": ("", "holds no example"),
    "blank lines": ("\n \n", "holds no example"),
    "broken line": (GOOD + GOOD + '{"messages": [\n', "line 3: is not JSON"),
    "not JSON at all": ("once upon a time\n", "line 1: is not JSON"),
    "a list": ("[1]\n", "line 1: is a JSON list"),
    "neither": ("{}\n", "line 1: has neither messages nor text"),
    "a prompt": ('{"prompt": "x"}\n', "line 1: prompt is an unknown field; not supported yet"),
    "tools": ('{"text": "x", "tools": []}\n', "line 1: tools is an unknown field; not supported yet"),
    "misspelt field": ('{"txt": "x"}\n', "txt is an unknown field; did you mean text? known are messages, text"),
    "both": ('{"text": "x", "messages": []}\n', "line 1: has both messages and text"),
    "no messages": (GOOD + '{"messages": []}\n', "line 2: messages is empty"),
    "messages is text": ('{"messages": "x"}\n', "line 1: messages is a str"),
    "message is text": (messages("x"), "line 1: messages[0] is a str"),
    "unknown role": (
        GOOD + messages({"role": "bot", "content": "x"}),
        "line 2: messages[0].role is 'bot'; allowed",
    ),
    "no role": (messages({"content": "x"}), "line 1: messages[0].role is missing"),
    "no content": (messages({"role": "user"}), "line 1: messages[0].content is missing"),
    "empty content": (messages({"role": "user", "content": ""}), "line 1: messages[0].content is empty"),
    "content is a list": (messages({"role": "user", "content": []}), "messages[0].content is a list"),
    "unknown field": (messages({"role": "user", "content": "x", "weight": 1}), "messages[0].weight is unknown"),
    "no assistant": (messages({"role": "user", "content": "x"}), "line 1: has no assistant message"),
    "empty text": ('{"text": ""}\n', "line 1: text is empty"),
    "not UTF-8": (GOOD.encode() + b'{"text": "\xff"}\n', "line 2: is not UTF-8"),
    "nested too deep": ("[" * 100_000 + "\n", "line 1: is not JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_data_names_line_and_field(tmp_path: Path, case: str) -> None:
    """The error names the location, the mistake and the allowed values."""
    content, complaint = BAD[case]
    with pytest.raises(InvalidJob) as caught:
        pin_data(source(tmp_path, content))
    assert complaint in caught.value.message
    assert "data.jsonl" in caught.value.message
    assert caught.value.details["field"] == "payload.data.path"


def test_a_missing_file_and_a_folder_are_named(tmp_path: Path) -> None:
    """The error names the state of the path and the expected one."""
    with pytest.raises(InvalidJob, match=r"nothing\.jsonl: does not exist; name an existing file"):
        pin_data(DataSource(path=str(tmp_path / "nothing.jsonl")))
    with pytest.raises(InvalidJob, match="is a directory"):
        pin_data(DataSource(path=str(tmp_path)))


def test_pinning_makes_the_source_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker in another directory opens the same file, and verifies its content."""
    source(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)
    pinned = pin_data(DataSource(path="data.jsonl"))
    assert pinned.path == str(tmp_path / "data.jsonl")
    assert pinned.format == "jsonl"
    assert pinned.sha256 is not None
    assert pin_data(DataSource(path="data.jsonl"), base=tmp_path) == pinned
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


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [("a.jsonl", GOOD, "jsonl"), ("a.txt", "{", "text"), ("a", GOOD, "jsonl"), ("b", "Once", "text")],
)
def test_the_format_is_found(tmp_path: Path, name: str, content: str, kind: str) -> None:
    """By the file extension, else by the first line."""
    assert load_data(source(tmp_path, content, name)).format == kind


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    """Byte order marks and line endings of other programs are accepted."""
    row = '{"text": "hello"}\n'
    assert load_data(source(tmp_path, b"\xef\xbb\xbf" + row.encode())).examples[0].content == "hello"


def test_runs_of_a_process_share_one_copy(tmp_path: Path) -> None:
    """Equal content is cached once, whatever its path, and dropped with its last user."""
    first = load_data(source(tmp_path, GOOD, "a.jsonl"))
    assert load_data(source(tmp_path, GOOD, "b.jsonl")) is first
    pinned = pin_data(DataSource(path=str(tmp_path / "a.jsonl")))
    (tmp_path / "a.jsonl").unlink()
    assert load_data(pinned) is first, "what is held needs no file"
    del first
    gc.collect()
    with pytest.raises(InvalidJob, match="does not exist"):
        load_data(pinned)


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
    with pytest.raises(InvalidJob, match=r"data\.jsonl: 5 of 40 rows are bad:\nline 4: text is empty") as caught:
        pin_data(source(tmp_path, "".join(bad if line in (4, 9, 17, 22, 40) else good for line in range(1, 41))))
    assert caught.value.details["lines"] == [4, 9, 17, 22, 40]

    with pytest.raises(InvalidJob, match=r"\n\.\.\. and 30 more") as caught:
        pin_data(source(tmp_path, bad * 50))
    assert caught.value.details["lines"] == list(range(1, 21))
    assert caught.value.details["count"] == 50
