"""Any job file, data file, prompt file and wake-up is taken, or refused by an error of the family.

``NSAI_TEST_FUZZ_EXAMPLES`` sets the number of inputs of each.
"""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nsai_work.client.jobfile import load_jobs
from nsai_work.data.dataset import load_data
from nsai_work.dispatch.wakeup import BadWakeUp, decode
from nsai_work.errors import InvalidJob
from nsai_work.inference import pin_prompts
from nsai_work.job import Job
from nsai_work.payloads import DataSource, Inference, TrainingData, TrainingStep
from nsai_work.store.records import WakeUp

EXAMPLES = int(os.environ.get("NSAI_TEST_FUZZ_EXAMPLES", "15"))
fuzzed = settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=[*HealthCheck],
    database=None,
)

ODD_NUMBERS = [float("nan"), float("inf"), -float("inf"), 2**63, -(2**64), 10**400, 0, -1, 1e308]
ODD_TEXTS = [
    "\ud800",
    "a\x00b",
    "\x1b[2J",
    "9999-12-31T23:59:59-01:00",
    "0001-01-01T00:00:00+01:00",
    "~",
    "/dev/zero",
]
scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
    | st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS])
)  # fmt: skip
FIELDS = [*Job.model_fields, *TrainingStep.model_fields, *Inference.model_fields, "path", "command", "arguments"]
ROW_FIELDS = ["messages", "text", "prompt", "id", "options", "role", "content", "tools", "metadata", "model"]


def values(names: list[str]) -> st.SearchStrategy[Any]:
    """Any JSON, and what Python takes for it, often with names that mean something."""
    keys = st.sampled_from(names) | st.text(max_size=4)
    deep = st.integers(1, 2_000).map(lambda depth: json.loads("[" * min(depth, 120) + "]" * min(depth, 120)))
    return st.recursive(
        scalars | deep,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4),
        max_leaves=12,
    )


def jobs() -> st.SearchStrategy[dict[str, Any]]:
    """Jobs that are nearly valid."""
    kinds = st.sampled_from(["training_step", "inference", "tool_call", "composite", "nothing"])
    payloads = st.fixed_dictionaries({}, optional={
        "base_model": scalars, "data": values(["path", "sha256"]), "command": scalars, "prompt": values(ROW_FIELDS),
        "arguments": values(["a"]), "max_steps": scalars, "optimizer": values(["learning_rate"]),
        "recovery": values(["enabled"]), "checkpoint_policy": values(["strategy", "ttl"]),
    })  # fmt: skip
    return st.fixed_dictionaries(
        {"kind": kinds, "payload": payloads | values(FIELDS)},
        optional={name: values(FIELDS) for name in Job.model_fields if name not in ("kind", "payload")},
    )


@fuzzed
@given((jobs() | values(FIELDS)).map(lambda value: json.dumps(value).encode())
       | st.binary(max_size=200)
       | st.text("ab:-[]{}&*!|>'\"#\n\t ,?%@`1.e", max_size=80).map(str.encode))  # fmt: skip
def test_any_job_file_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    """With an InvalidJob; a job that is taken can be stored as JSON."""
    file = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    file.write_bytes(content)
    try:
        found = load_jobs(file)
    except InvalidJob:
        return
    else:
        for job in found:
            text = json.dumps(job.model_dump(mode="json"), allow_nan=False)
            assert Job.parse(json.loads(text)) == job


@fuzzed
@given(jobs())
def test_any_arguments_of_a_job_are_taken_or_refused(job: dict[str, Any]) -> None:
    """In Python, where values are not JSON."""
    try:
        found = Job.parse(job)
    except InvalidJob:
        return
    json.dumps(found.model_dump(mode="json"), allow_nan=False)


@fuzzed
@given(st.lists(values(ROW_FIELDS).map(lambda row: json.dumps(row).encode()) | st.binary(max_size=60), max_size=4))
def test_any_data_file_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, lines: list[bytes]) -> None:
    """As training data and as prompts."""
    file: Path = tmp_path_factory.getbasetemp() / "fuzzed.jsonl"
    file.write_bytes(b"\n".join(lines))
    for read in (
        lambda: load_data(TrainingData(path=str(file))),
        lambda: pin_prompts(DataSource(path=str(file))),
    ):
        try:
            read()
        except InvalidJob:
            continue


@fuzzed
@given(st.binary(max_size=200) | values(["job_id", "fence", "priority", "traceparent"]).map(
    lambda value: json.dumps([[], value, {}]).encode()))  # fmt: skip
def test_any_message_is_a_wake_up_or_a_reason(body: bytes) -> None:
    """Whoever sent it."""
    assert isinstance(decode(body), WakeUp | BadWakeUp)


def test_ten_thousand_levels_are_refused(tmp_path: Path) -> None:
    """As a file that is nested too deeply."""
    file = tmp_path / "job.json"
    file.write_text("[" * 10_000 + "]" * 10_000)
    with pytest.raises(InvalidJob, match="nested too deeply"):
        load_jobs(file)
