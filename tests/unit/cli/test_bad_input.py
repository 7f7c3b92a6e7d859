"""Bad input, with the command line called in this process.

The most common cases are in tests/acceptance/test_bad_input.py, in processes of their own.
"""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nsai_work.cli import main
from nsai_work.client.jobfile import load_job
from tests.job_changes import Change, JobFields, set_field

FIELDS = {
    "home of nobody": (
        set_field("payload.data.path", "~nobody-has-this-name/x"),
        ["payload.data.path", "does not exist"],
    ),
    "unknown field of the job": (set_field("retries", 8), ["retries", "unknown field"]),
    "field of a block of the job": (set_field("max_attempts", 8), ["it belongs at retry_policy.max_attempts"]),
    "field of a block of the payload": (
        set_field("payload.learning_rate", 1e-4),
        ["payload.learning_rate", "it belongs at payload.optimizer.learning_rate"],
    ),
    "missing field": (lambda job: job["payload"].pop("data"), ["payload.data", "required"]),
    "no steps": (set_field("payload.max_steps", 0), ["payload.max_steps", "greater than or equal to 1"]),
    "misspelt loss": (
        set_field("payload.loss_fn", "cross_entropi"),
        ["payload.loss_fn", "'cross_entropi'", "cross_entropy"],
    ),
    "text for a number": (
        set_field("payload.loss_fn_config", {"beta": "0.5"}),
        ["payload.loss_fn_config.beta", "'0.5'"],
    ),
    "truth for a number": (
        set_field("payload.loss_fn_config", {"beta": True}),
        ["payload.loss_fn_config.beta", "True"],
    ),
    "infinite setting": (
        set_field("payload.loss_fn_config", {"beta": float("inf")}),
        ["loss_fn_config", "beta", "inite"],
    ),
    "setting without a name": (
        set_field("payload.loss_fn_config", {"": 1.0}),
        ["payload.loss_fn_config", "1 character"],
    ),
    "absurd rank": (set_field("payload.lora.rank", 100_000), ["payload.lora.rank", "1024"]),
    "absurd delay": (set_field("retry_policy.max_delay_ms", 10**12), ["retry_policy.max_delay_ms", "604800000"]),
    "unknown backoff": (set_field("retry_policy.backoff_type", "random"), ["backoff_type", "exponential"]),
    "keep none": (
        set_field("payload.checkpoint_policy.keep_last", -1),
        ["keep_last", "greater than or equal to 1"],
    ),
    "unknown checkpoint to recover": (
        set_field("payload.recovery", {"enabled": True, "checkpoint_strategy": "newest"}),
        ["checkpoint_strategy", "latest", "best_loss"],
    ),
    "absurd number of steps": (set_field("payload.max_steps", 10**29), ["payload.max_steps", "1000000000"]),
    "absurd time limit": (set_field("resources", {"timeout_ms": 10**29}), ["resources.timeout_ms", "less than"]),
    "absurd group": (
        set_field("constraints", {"concurrency_group": "g", "max_concurrent_in_group": 2**63}),
        ["constraints.max_concurrent_in_group", "1000000"],
    ),
    "lone surrogate": (set_field("payload.loss_fn", "a\ud800"), ["payload.loss_fn", "lone surrogate", "\\ud800"]),
    "deadline before its start": (
        set_field("constraints", {"not_before": "2030-01-02T00:00:00Z", "deadline": "2030-01-01T00:00:00Z"}),
        ["deadline", "not_before"],
    ),
}


DATA = {
    "unknown role": ('{"messages": [{"role": "bot", "content": "x"}]}\n', ["line 1", "role", "assistant"]),
    "lone surrogate": ('{"text": "a\\ud800"}\n', ["line 1", "text", "lone surrogate", "\\ud800"]),
    "number of many digits": ('{"text": "a", "n": ' + "9" * 5000 + "}\n", ["line 1", "digits"]),
    "no conversation": ('{"messages": []}\n', ["line 1", "messages"]),
}

FILES = {
    "empty": ("", ["job.json"]),
    "text": ("just text", ["job.json"]),
    "list of numbers": ("- 1\n- 2\n", ["jobs[0]"]),
    "no such day": ("kind: composite\nname: 2020-13-45\n", ["line 2", "'2020-13-45'", "timestamp"]),
    "number of many digits": ("name: " + "9" * 5000, ["line 1", "int"]),
    "control character": ("kind: a\x00b", ["#x0000"]),
}

SETTINGS = {
    "NSAI_WORK_LEASE_TTL_S": "-1",
    "NSAI_WORK_BROKER_URL": "rabbit",
    "NSAI_WORK_DATABASE_URL": "mysql://x/y",
    "NSAI_WORK_CONCURRENCY": "many",
    "NSAI_WORK_CREDENTIALS": "tinkex=team-a",
    "NSAI_WORK_HOME": "~nobody-has-this-name/home",
}

AssertRejected = Callable[[str, list[str]], None]
AssertCallRejected = Callable[[list[str], list[str]], None]


@pytest.fixture
def job(tmp_path: Path) -> JobFields:
    """A valid job; its data is in the folder of the job file."""
    (tmp_path / "data.jsonl").write_text('{"text": "once upon a time"}\n')
    payload = {"base_model": "tiny-lm", "data": {"path": "data.jsonl"}, "max_steps": 2}
    return {"kind": "training_step", "backend": "fake", "payload": payload}


@pytest.fixture
def assert_rejected(tmp_path: Path, assert_call_rejected: AssertCallRejected) -> AssertRejected:
    """Submit the text of a job file, and assert that it is rejected as ``assert_call_rejected`` says."""

    def submit(text: str, words: list[str]) -> None:
        file = tmp_path / "job.json"
        file.write_text(text)
        assert_call_rejected(["submit", str(file)], words)

    return submit


@pytest.fixture
def assert_call_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[AssertCallRejected]:
    """Run the command line; assert exit code 2, a message with all the words, and that no store was created."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def call(arguments: list[str], words: list[str]) -> None:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert exited.value.code == 2, shown.err
        assert shown.out == ""
        for word in words:
            assert word in shown.err
        assert not (tmp_path / "home" / "nsai-work.db").exists()

    yield call
    # the command set logging up for its process, which here is everybody's
    logging.root.handlers[:], logging.root.level = handlers, level


ARGUMENTS = {
    "value": (["list", "--status", "done"], ["'--status': 'done' is not one of 'pending'"]),
    "number": (["list", "--limit", "0"], ["--limit", "greater than or equal to 1"]),
    "argument": (["show"], ["Missing argument 'ID'"]),
    "option": (["db", "prune"], ["Missing option '--older-than'"]),
    "command": (["shwo"], ["No such command 'shwo'"]),
    "of a plug-in": (["dev-server", "--port", "99999"], ["--port", "65535"]),
}


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_wrong_arguments_are_an_object_for_scripts(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    assert_call_rejected: AssertCallRejected,
    arguments: list[str],
    words: list[str],
) -> None:
    """As every other error; without --json in a box. Both say what is allowed and nothing of its library."""
    monkeypatch.setenv("COLUMNS", "200")
    assert_call_rejected(arguments, words)
    monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments, "--json"])
    with pytest.raises(SystemExit) as exited:
        main()

    shown = capsys.readouterr()
    error = json.loads(shown.err)["error"]
    assert (exited.value.code, shown.out) == (2, "")
    assert all(word in error["message"] for word in words)
    assert error["advice"].startswith("nsai-work ")
    assert (error["code"], error["category"]) == ("invalid_request", "validation")


def test_fields_that_the_store_sets_are_no_suggestions(
    job: JobFields, assert_rejected: AssertRejected, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whoever follows one is refused; and what is refused is shown as it was written."""
    assert_rejected(json.dumps({**job, "attempts": 3}), ["attempts: unknown field; known are id, kind"])
    assert_rejected(json.dumps({**job, "status": "succeeded"}), ["status: 'succeeded' is not allowed"])


@pytest.mark.parametrize(("change", "words"), FIELDS.values(), ids=FIELDS.keys())
def test_wrong_field(job: JobFields, assert_rejected: AssertRejected, change: Change, words: list[str]) -> None:
    """The message names the field, the value and what is allowed."""
    change(job)

    assert_rejected(json.dumps(job), words)


@pytest.mark.parametrize(("content", "words"), DATA.values(), ids=DATA.keys())
def test_wrong_data(
    job: JobFields, tmp_path: Path, assert_rejected: AssertRejected, content: str, words: list[str]
) -> None:
    """The message names the line and what is allowed."""
    (tmp_path / "data.jsonl").write_text(content)

    assert_rejected(json.dumps(job), words)


@pytest.mark.parametrize(("content", "words"), FILES.values(), ids=FILES.keys())
def test_wrong_file(assert_rejected: AssertRejected, content: str, words: list[str]) -> None:
    """The message names the file or the entry."""
    assert_rejected(content, words)


def test_wrong_database_url(
    job: JobFields, assert_rejected: AssertRejected, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The message does not repeat the URL, which may contain a password."""
    monkeypatch.setenv("NSAI_WORK_DATABASE_URL", "postgresql://u:pass@word@[::1")

    assert_rejected(json.dumps(job), ["database_url: '(not shown: it may hold a password)' is not allowed"])


@pytest.mark.parametrize("variable", SETTINGS)
def test_wrong_settings(
    job: JobFields, assert_rejected: AssertRejected, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    """The message names the environment variable."""
    monkeypatch.setenv(variable, SETTINGS[variable])

    assert_rejected(json.dumps(job), [variable])


_METRICS = "no step or evaluation of this job gives it; metrics are: loss, "
_WITHOUT_EVAL = "eval.loss is given by the evaluations of a job with eval; " + _METRICS
BEST_METRICS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "like no name": (
        {"max_steps": 6, "checkpoint_policy": {"save_every": 2, "best_metric": "accuracyy", "best_mode": "max"}},
        {},
        _METRICS,
    ),
    "of held-out data that is not there": (
        {"epochs": 2, "checkpoint_policy": {"best_metric": "val_loss"}},
        {},
        _WITHOUT_EVAL,
    ),
    "of evaluations that are not there": (
        {"epochs": 2, "checkpoint_policy": {"best_metric": "eval.loss"}},
        {},
        _WITHOUT_EVAL,
    ),
    "of held-out data by another name": (
        {"epochs": 2, "checkpoint_policy": {"best_metric": "val_loss"}, "eval": {"split": 0.5}},
        {},
        "did you mean eval.loss? " + _METRICS,
    ),
    "of tasks that are not there": (
        {"max_steps": 2, "checkpoint_policy": {"best_metric": "val/reward", "best_mode": "max"}},
        {"method": "rl", "environment": {"name": "tests.games:Guess"}},
        "eval.reward is given by the evaluations of a job with eval; " + _METRICS,
    ),
}


@pytest.mark.parametrize("with_key", [True, False], ids=["with a key", "without a key"])
@pytest.mark.parametrize(("fields", "method", "complaint"), BEST_METRICS.values(), ids=BEST_METRICS)
def test_a_best_metric_that_nothing_gives(
    job: JobFields,
    tmp_path: Path,
    assert_rejected: AssertRejected,
    monkeypatch: pytest.MonkeyPatch,
    fields: dict[str, Any],
    method: dict[str, Any],
    complaint: str,
    with_key: bool,
) -> None:
    """No checkpoint would be the best one. Neither the key nor the service is needed to know."""
    (tmp_path / "data.jsonl").write_text("".join(f'{{"text": "text {number}"}}\n' for number in range(8)))
    monkeypatch.delenv("TINKER_API_KEY", raising=False)
    if with_key:
        monkeypatch.setenv("TINKER_API_KEY", "tml-x")
        monkeypatch.setenv("TINKER_BASE_URL", "http://127.0.0.1:9")
    policy = {"strategy": "best", **fields["checkpoint_policy"]}
    payload = {"base_model": "tiny-lm", "data": {"path": "data.jsonl"}, "batch_size": 2}
    if method:
        payload = {"base_model": "tiny-lm", **method}
    job |= {"backend": "tinkex", "payload": {**payload, **fields, "checkpoint_policy": policy}}

    named = f"payload.checkpoint_policy.best_metric: {policy['best_metric']!r} is not allowed; "
    assert_rejected(json.dumps(job), [named + complaint])


def test_json_may_be_indented_by_tabs(job: JobFields, tmp_path: Path) -> None:
    """JSON allows tabs between tokens, YAML does not."""
    (tmp_path / "job.json").write_text(json.dumps(job, indent="\t"))

    assert load_job(tmp_path / "job.json").backend == "fake"


ARGUMENTS = {
    "not UTF-8": (["show", "a\udcff"], ["argument", "UTF-8"]),
    "negative limit": (["limits", "tenant", "t", "-1"], ["MAX", "'-1'", "from 0 to 1000000, or none"]),
    "limit that is no number": (["limits", "credential", "c", "many"], ["MAX", "'many'"]),
    "limit of many digits": (["limits", "tenant", "t", "9" * 5000], ["MAX", "from 0"]),
    "limit of no tenant": (["limits", "tenant", "", "1"], ["tenant_id", "empty"]),
    "limit of a long tenant": (["limits", "tenant", "t" * 201, "1"], ["tenant_id", "200"]),
    "limit of no credential": (["limits", "credential", " ", "1"], ["credential", "empty"]),
    "limit of a key": (["limits", "credential", "tml-0123456789abcdef01", "1"], ["credential", "looks like a key"]),
    "limit of no model": (["limits", "credential", "c", "1", "--model", ""], ["model", "empty"]),
    "limit with NUL": (["limits", "tenant", "a\x00", "1"], ["tenant_id", "control characters", "\\x00"]),
    "limit of a model with NUL": (
        ["limits", "credential", "c", "1", "--model", "a\x00"],
        ["model", "control characters", "\\x00"],
    ),
    "limit with a lone surrogate": (["limits", "tenant", "a\ud800", "1"], ["argument", "a\\ud800", "UTF-8"]),
    "more jobs at a time than a setting allows": (
        ["worker", "--concurrency", "100001"],
        ["--concurrency", "100000"],
    ),
    "a time limit of no wait": (["submit", "job.yaml", "--timeout", "5"], ["--timeout", "5.0", "add --wait"]),
    "a seed of 70 bits": (
        ["complete", "--backend", "fake", "--seed", str(2**70), "hi"],
        ["options.seed", f"less than {2**63}"],
    ),
    "image without an end": (["complete", "--backend", "fake", "--image", "/dev/zero", "hi"], ["--image", "file"]),
}


@pytest.mark.parametrize(("arguments", "words"), ARGUMENTS.values(), ids=ARGUMENTS.keys())
def test_wrong_arguments(assert_call_rejected: AssertCallRejected, arguments: list[str], words: list[str]) -> None:
    """Invalid arguments are rejected before the store is opened."""
    assert_call_rejected(arguments, words)
