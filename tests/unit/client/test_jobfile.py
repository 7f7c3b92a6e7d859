"""Job files: plain data gives jobs, anything else a clear error."""

import json
from pathlib import Path

import pytest

from nsai_work.client.jobfile import load_job, load_jobs
from nsai_work.errors import InvalidJob

TRAIN = """\
kind: training_step
backend: fake
payload:
  base_model: m
  data: {path: data/conversations.jsonl}
  max_steps: 3
"""


def _file(tmp_path: Path, text: str, name: str = "job.yaml") -> Path:
    file = tmp_path / name
    file.write_text(text)
    return file


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    """A relative path is resolved against the folder of the job file."""
    job = load_job(_file(tmp_path, TRAIN))

    assert job.payload["data"]["path"] == str(tmp_path / "data/conversations.jsonl")  # type: ignore[index,call-overload]


def test_json_is_accepted(tmp_path: Path) -> None:
    """A JSON list has several jobs."""
    entry = {"kind": "composite", "payload": {}}

    assert len(load_jobs(_file(tmp_path, json.dumps([entry, entry]), "jobs.json"))) == 2


JSON_TEXTS = {
    "a pair of surrogates": "\U0001f600", "next line": "a\x85b", "line separator": "a \u2028 b", "delete": "a\x7fb",
    "long": "k" * 2000, "tab": "a\tb",
}  # fmt: skip
"""Texts that YAML refuses, or reads as other texts."""


@pytest.mark.parametrize("text", JSON_TEXTS.values(), ids=JSON_TEXTS)
@pytest.mark.parametrize("as_ascii", [True, False], ids=["escaped", "as it is"])
def test_json_is_read_as_json(text: str, as_ascii: bool, tmp_path: Path) -> None:
    """As names too, with tabs between tokens, and after a byte order mark."""
    entry = {"kind": "composite", "payload": {}, "metadata": {text: text}}
    file = _file(tmp_path, "\ufeff" + json.dumps(entry, ensure_ascii=as_ascii, indent="\t"), "job.json")

    assert load_job(file).metadata == {text: text}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(TRAIN.replace("max_steps: 3", "max_steps: -3"), "line 6: payload.max_steps: ", id="value"),
        pytest.param(TRAIN.replace("max_steps", "max_step"), "line 6: payload.max_step: unknown field", id="field"),
        pytest.param(TRAIN.replace("training_step", "train"), "line 1: kind: ", id="kind"),
        pytest.param(TRAIN + "name: 1e4\n", "line 7: name: .*10000.0\\); put text in quotes", id="number for text"),
        pytest.param(
            TRAIN.replace("  base_model: m\n", ""), "payload.base_model: this field is required", id="missing"
        ),
        pytest.param(
            TRAIN + "metadata:\n  api_key: abc\n", "line 8: metadata.api_key: looks like", id="credential"
        ),
        pytest.param(
            TRAIN + "metadata: {x: sk-0123456789abcdefABCD}\n", "metadata.x: looks like", id="secret-value"
        ),
        pytest.param(TRAIN + "kind: inference\n", "line 7: kind: duplicate field", id="twice"),
        pytest.param("a: [1\n", "not plain YAML", id="syntax"),
        pytest.param("a: !!python/object:os.system x\n", "line 1: not plain YAML", id="object"),
        pytest.param("a: !!bool zz\n", "line 1: .*bool' is not supported; only !!str is", id="tag of a scalar"),
        pytest.param("- !!set {kind}\n", "line 1: .*set' is not supported", id="tag of a mapping"),
        pytest.param("a: !foo x\n", "line 1: .*'!foo' is not supported", id="tag of one's own"),
        pytest.param(
            "<<: {kind: inference}\nkind: composite\npayload: {}\n", "line 1: <<: unknown field", id="merge"
        ),
        pytest.param(
            '{"kind": "composite",\n"kind": "composite"}', "line 2: kind: duplicate field", id="twice-json"
        ),
        pytest.param(
            '{"kind": "composite", "payload": {}, "metadata": {"x": NaN}}', "metadata.x: nan is not", id="nan-json"
        ),
        pytest.param(
            TRAIN + "constraints: {deadline: 3600}\n", "line 7: constraints.deadline: .*such as 2026", id="seconds"
        ),
        pytest.param(
            TRAIN + "constraints: {not_before: '1764331200.5'}\n",
            "constraints.not_before: must be a time",
            id="epoch",
        ),
        pytest.param(TRAIN.replace("3", "true"), r"payload.max_steps: .*integer \(got True\)", id="truth"),
        pytest.param(
            TRAIN.replace("3", "'3'"), r"payload.max_steps: .*integer \(got '3'\)", id="text for a number"
        ),
        pytest.param(
            TRAIN + "  optimizer: {learning_rate: yes}\n",
            r"learning_rate: .*number \(got True\)",
            id="rate of truth",
        ),
        pytest.param("a: &x [1]\nb: *x\n", "line 2: not plain YAML or JSON: aliases", id="alias"),
        pytest.param("just text\n", "expected a job", id="scalar"),
        pytest.param("", "expected a job", id="empty"),
        pytest.param("[]", "contains no jobs", id="no-job"),
        pytest.param("[1]", "jobs\\[0\\]: expected a mapping", id="list-of-numbers"),
        pytest.param("[" * 5000, "nested too deeply|not plain YAML", id="deep"),
    ],
)
def test_an_error_names_file_line_and_field(text: str, expected: str, tmp_path: Path) -> None:
    """Each error has the file, and the line and field as far as they are known."""
    file = _file(tmp_path, text)

    with pytest.raises(InvalidJob, match=expected) as caught:
        load_jobs(file)
    assert str(file) in caught.value.message


def test_a_credential_is_not_repeated(tmp_path: Path) -> None:
    """The error names the field of the credential, not its value."""
    with pytest.raises(InvalidJob) as caught:
        load_jobs(_file(tmp_path, TRAIN + "metadata: {password: hunter2}\n"))
    assert "hunter2" not in f"{caught.value} {caught.value.details}"


NUMBERS = {
    "1e-4": 1e-4, "1E-4": 1e-4, "-1e+3": -1e3, "1.e-4": 1e-4, "2.5e-5": 2.5e-5, ".5e-3": 5e-4, ".5": 0.5,
    "+1.5": 1.5, "5e-324": 5e-324, "3": 3, "-0": 0, "0x10": 16, "1_000": 1000, "1_000.5": 1000.5,
    # text, to which YAML 1.1 would give another value than is written
    "1:30": "1:30", "1:30.5": "1:30.5", "010": "010", "'1e-4'": "1e-4", "1e-4 x": "1e-4 x", "12e4567": "12e4567",
}  # fmt: skip
"""What is written in YAML, and its value."""


def test_a_number_is_what_json_takes_for_one(tmp_path: Path) -> None:
    """Also without a point before its exponent, in whatever field; quoted, it stays text."""
    lines = "".join(f"  - {written}\n" for written in NUMBERS)
    job = load_job(_file(tmp_path, f"kind: composite\npayload: {{}}\nmetadata:\n  x:\n{lines}"))

    assert job.metadata["x"] == [*NUMBERS.values()]
    assert [*map(type, job.metadata["x"])] == [*map(type, NUMBERS.values())]  # type: ignore[call-overload,arg-type]


FLOAT_FIELDS = ("optimizer: {learning_rate: 1e-9}", "data: {sources: [{path: a.jsonl, weight: 1e-9}]}",
                "loss_fn_config: {clip_low_threshold: 1e-9}")  # fmt: skip


@pytest.mark.parametrize("field", FLOAT_FIELDS)
def test_a_field_for_numbers_takes_an_exponent(tmp_path: Path, field: str) -> None:
    """Those that take no text too; the job holds a number."""
    head = TRAIN if "sources" not in field else TRAIN.replace("  data: {path: data/conversations.jsonl}\n", "")
    job = load_job(_file(tmp_path, f"{head}  {field}\n"))

    assert json.dumps(job.payload).count(": 1e-09") == 1


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """A missing file and a directory have different messages."""
    with pytest.raises(InvalidJob, match="cannot be read"):
        load_jobs(tmp_path / name)
