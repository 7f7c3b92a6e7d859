"""Containers: the same rows in each give the same examples; what is broken is refused, with its place."""

import gzip
import json
import os
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from nsai_work.data import containers
from nsai_work.data import source as source_module
from nsai_work.data.dataset import load_data, new_counts, pin_data, read_examples
from nsai_work.errors import DataChanged, InvalidJob
from nsai_work.files import lines as lines_module
from nsai_work.files.lines import numbered_lines
from nsai_work.inference.prompts import pin_prompts
from nsai_work.payloads import DataSource, TrainingData

ROWS = [{"text": f"row {number} \u00fc"} for number in range(5)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
ARRAY = json.dumps(ROWS, indent=1, ensure_ascii=False).encode()


def load(folder: Path, name: str, content: bytes, **settings: object) -> list[tuple[object, int]]:
    """Return the examples of a file with this content, and their lines."""
    (folder / name).write_bytes(content)
    data = TrainingData.model_validate({"path": str(folder / name), **settings})
    return [(example.content, example.line) for example in load_data(data).examples]


@pytest.mark.parametrize(
    ("name", "content", "lines"),
    [
        ("a.jsonl", LINES, [1, 2, 3, 4, 5]),
        ("a.json", LINES, [1, 2, 3, 4, 5]),
        ("a.json", ARRAY, [2, 5, 8, 11, 14]),
        ("a", ARRAY, [2, 5, 8, 11, 14]),
        ("a.json", b"\xef\xbb\xbf  " + ARRAY + b"\n \n", [2, 5, 8, 11, 14]),
        ("a.jsonl", LINES.replace(b"\n", b"\r\n"), [1, 2, 3, 4, 5]),
        ("a.txt", "\n\n".join(row["text"] for row in ROWS).encode(), [1, 3, 5, 7, 9]),
    ],
)
@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_equal_rows_give_equal_examples(
    tmp_path: Path, name: str, content: bytes, lines: list[int], packed: str
) -> None:
    """In each container, compressed or not."""
    pack = {"": bytes, ".gz": gzip.compress, ".zst": zstandard.compress}[packed]
    assert load(tmp_path, name + packed, pack(content)) == [
        (row["text"], line) for row, line in zip(ROWS, lines, strict=True)
    ]


@given(
    rows=st.lists(st.dictionaries(st.just("text"), st.text(min_size=1), min_size=1), min_size=1),
    size=st.integers(1, 9),
)
def test_where_blocks_end_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], size: int
) -> None:
    """Rows, characters and escapes across blocks."""
    folder = tmp_path_factory.mktemp("blocks")
    expected = [row["text"] for row in rows]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(source_module, "BLOCK_BYTES", size)
        array = json.dumps(rows, ensure_ascii=False).encode()
        lines = b"\n".join(json.dumps(row, ensure_ascii=False).encode() for row in rows)
        assert [text for text, _ in load(folder, "a.json", array)] == expected
        assert [text for text, _ in load(folder, "b.jsonl", lines)] == expected


BAD = {
    "rubbish behind gzip": ("a.jsonl.gz", gzip.compress(LINES) + b"rubbish", "cannot be decompressed"),
    "cut gzip": ("a.jsonl.gz", gzip.compress(LINES)[:-9], "cannot be decompressed .*incomplete"),
    "rubbish behind zstd": ("a.jsonl.zst", zstandard.compress(LINES) + b"rubbish", "cannot be decompressed"),
    "cut zstd": ("a.jsonl.zst", zstandard.compress(LINES)[:-5], "cannot be decompressed"),
    "no gzip": ("a.jsonl.gz", LINES, "is not compressed, as .gz in its name says"),
    "empty gzip": ("a.jsonl.gz", b"", "is not compressed"),
    "array cut": ("a.json", ARRAY[:-10], "line 14: the row that begins here is not JSON"),
    "no comma": ("a.json", b'[{"text": "a"}\n{"text": "b"}]', "line 2: is not JSON; rows of an array"),
    "two arrays": ("a.json", ARRAY + ARRAY, "line 17: has text behind its array"),
    "array not UTF-8": ("a.json", b'[{"text": "\xff"}]', "line 1: is not UTF-8"),
    "text not UTF-8": ("a.txt", b"a\n\nb\n\xff", "line 4: is not UTF-8 at byte 0"),
    "parquet by name": ("a.parquet", LINES, "is not a Parquet file"),
    "parquet by content": ("a.jsonl", b"PAR1" + LINES, "Parquet"),
    "empty array": ("a.json", b"[]", "holds no example"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_broken_is_refused(tmp_path: Path, case: str) -> None:
    """With the file, and the line where there is one."""
    name, content, complaint = BAD[case]
    with pytest.raises(InvalidJob, match=rf"payload.data.path: .*{name}.*{complaint}"):
        load(tmp_path, name, content)


@pytest.mark.parametrize("name", ["a.jsonl", "a.txt", "a.json"])
def test_a_row_without_an_end_is_not_read_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """The row is bad; in lines, those after it are read."""
    for module in (lines_module, containers):
        monkeypatch.setattr(module, "MAX_LINE_BYTES", 1_000_000)
    huge = {"a.jsonl": b"x" * 3_000_000, "a.txt": b"x" * 3_000_000, "a.json": b'[{"text": "' + b"x" * 3_000_000}[
        name
    ]
    with pytest.raises(InvalidJob, match=r"line 1: .*is longer than 16 MiB"):
        load(tmp_path, name, huge + b"\n\n" + LINES)
    if name != "a.json":
        assert load(tmp_path, name, huge + b"\n\n" + LINES, on_bad_row="skip")


FIVE_GB = 5 * 1000**3
ENDLESS = {
    "a line": ("a.jsonl", b"", "line 1: is longer than 16 MiB"),
    "a later line": ("a.jsonl", LINES, "line 6: is longer than 16 MiB"),
    "a paragraph": ("a.txt", b"a\n\nb\n", "line 3: is longer than 16 MiB"),
    "a row of an array": ("a.json", b'[{"text": "', "line 1: the row that begins here is longer than 16 MiB"),
    "a later row of an array": (
        "a.json",
        b'[{"text": "a"},\n{"text": "b"},\n{"text": "',
        "line 3: the row that begins here is longer than 16 MiB",
    ),
}


@pytest.mark.parametrize(
    ("case", "on_bad_row"),
    # what follows a row of an array that has no end is not known, so that it cannot be skipped
    [*((case, "error") for case in ENDLESS), ("a row of an array", "skip"), ("a later row of an array", "skip")],
)
def test_a_row_of_gigabytes_is_refused_before_the_file_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str, on_bad_row: Literal["error", "skip"]
) -> None:
    """At the limit, before the digest: a file of 5 GB without a line end costs what 16 MiB do."""
    name, begin, complaint = ENDLESS[case]
    path = tmp_path / name
    path.write_bytes(begin)
    os.truncate(path, FIVE_GB)
    read: list[int] = []
    whole = source_module.DataBytes.blocks

    def counted(data: source_module.DataBytes) -> Iterator[bytes]:
        for block in whole(data):
            read.append(len(block))
            yield block

    monkeypatch.setattr(source_module.DataBytes, "blocks", counted)
    with pytest.raises(InvalidJob, match=rf"payload.data.path: .*{name}, {complaint}") as refused:
        pin_data(TrainingData(path=str(path), on_bad_row=on_bad_row))
    assert refused.value.details["line"] == int(complaint.split()[1].strip(":"))
    assert sum(read) < 64 * 1024**2


def test_a_prompt_of_gigabytes_is_refused_at_the_limit(tmp_path: Path) -> None:
    """With the lines before it."""
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"prompt": "a"}\n')
    os.truncate(path, FIVE_GB)
    with pytest.raises(InvalidJob, match=r"payload.input.path: .*prompts.jsonl, line 2: is longer than 16 MiB"):
        pin_prompts(DataSource(path=str(path)))


@given(st.binary(max_size=64), st.integers(1, 9))
def test_lines_are_those_of_the_whole_text(content: bytes, size: int) -> None:
    """Wherever blocks end, and with a limit, each line that is longer is None, once."""
    limit = 7
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "MAX_LINE_BYTES", limit)
        found = [*numbered_lines(content[place : place + size] for place in range(0, len(content), size))]
    expected = content.split(b"\n")
    if not expected[-1]:
        expected.pop()
    assert found == [(number, line if len(line) <= limit else None) for number, line in enumerate(expected, 1)]


@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.yaml", "a.xlsx", "a.jsonl.bz2", "a.csv.gz"])
def test_a_table_or_an_archive_is_no_text(tmp_path: Path, name: str) -> None:
    """It is refused by its name, unless its format says so; what is JSON may have any name."""
    table = b"prompt,completion\na,b\n"
    content, lines = (gzip.compress(table), gzip.compress(LINES)) if name.endswith(".gz") else (table, LINES)
    for read in (pin_data, load_data):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InvalidJob, match=rf"{name}: is not JSON, and .* is none of the names of data files"):
            read(TrainingData(path=str(tmp_path / name)))
    assert load(tmp_path, name, content, format="text") == [("prompt,completion\na,b", 1)]
    assert len(load(tmp_path, name, lines)) == len(ROWS)


def test_a_row_of_an_array_with_a_field_twice_is_a_bad_row(tmp_path: Path) -> None:
    """The rows behind it are read, wherever blocks end."""
    content = b'[{"text": "a"}, {"text": "b", "text": "c"},\n {"text": "d"}]'
    assert load(tmp_path, "a.json", content, on_bad_row="skip") == [("a", 1), ("d", 2)]
    with pytest.raises(InvalidJob, match=r"a.json, line 1: has the field 'text' twice"):
        load(tmp_path, "a.json", content)


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At submit; a pinned one is reported as changed."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    pinned = pin_data(TrainingData(path=str(path)))
    whole = source_module.DataBytes.exhaust

    def grow(data: source_module.DataBytes) -> None:
        whole(data)
        with path.open("ab") as file:
            file.write(LINES)

    monkeypatch.setattr(source_module.DataBytes, "exhaust", grow)
    with pytest.raises(InvalidJob, match="changed while it was read; submit it when it is complete"):
        pin_data(TrainingData(path=str(path)))
    monkeypatch.undo()
    with pytest.raises(DataChanged):
        load_data(pinned)


def test_a_file_that_grows_faster_than_it_is_read_has_an_end(tmp_path: Path) -> None:
    """Each row that is read makes a hundred."""
    path = tmp_path / "a.jsonl"
    path.write_bytes(LINES)
    data = TrainingData(path=str(path))

    def read_all() -> None:
        for number, _ in enumerate(read_examples(data, 0, new_counts(data, 0))):
            with path.open("ab") as writer:
                writer.write(b'{"text": "a"}\n' * 100)
            assert number < 20_000

    with pytest.raises(InvalidJob, match=r"payload.data.path: .*a.jsonl: changed while it was read"):
        read_all()


def test_a_row_that_is_half_written_is_a_change_of_the_file(tmp_path: Path) -> None:
    """And no bad row."""
    data = TrainingData(path=str(tmp_path / "a.jsonl"))
    with (tmp_path / "a.jsonl").open("wb", buffering=0) as writer:
        writer.write(LINES + b'{"text": "a')
        examples = read_examples(data, 0, new_counts(data, 0))
        next(examples)
        writer.write(b'b"}\n')
        with pytest.raises(InvalidJob, match=r"a.jsonl: changed while it was read"):
            deque(examples)
    assert len([*read_examples(data, 0, new_counts(data, 0))]) == 1 + len(LINES.splitlines())


def test_parquet_rows_are_rows(tmp_path: Path) -> None:
    """Its nulls are absent; without the column, the error says what it has."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pyarrow.Table.from_pylist([*ROWS, {"text": "b", "id": 1}]), tmp_path / "a.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([{"txt": "x"}]), tmp_path / "b.parquet")
    data = load_data(TrainingData(path=str(tmp_path / "a.parquet")))
    assert [example.content for example in data.examples] == [*(row["text"] for row in ROWS), "b"]
    with pytest.raises(InvalidJob, match=r"line 1: fits no format: its fields are txt; nearest is text"):
        load_data(TrainingData(path=str(tmp_path / "b.parquet")))
    (tmp_path / "c.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-7])
    with pytest.raises(InvalidJob, match="is not a Parquet file that can be read"):
        load_data(TrainingData(path=str(tmp_path / "c.parquet")))
