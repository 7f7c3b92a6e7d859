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


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(TRAIN.replace("max_steps: 3", "max_steps: -3"), "line 6: payload.max_steps: ", id="value"),
        pytest.param(TRAIN.replace("max_steps", "max_step"), "line 6: payload.max_step: unknown field", id="field"),
        pytest.param(TRAIN.replace("training_step", "train"), "line 1: kind: ", id="kind"),
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


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read(name: str, tmp_path: Path) -> None:
    """A missing file and a directory have different messages."""
    with pytest.raises(InvalidJob, match="cannot be read"):
        load_jobs(tmp_path / name)
