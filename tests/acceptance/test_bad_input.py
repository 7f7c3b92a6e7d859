"""Bad input is rejected at submit with exit code 2 and the name of the field; nothing is stored."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.conftest import Cli
from tests.job_changes import Change, JobFields, set_field

FIELDS = {
    "unknown backend": (set_field("backend", "nonesuch"), ["backend", "nonesuch", "fake", "tinkex"]),
    "unknown kind": (set_field("kind", "training"), ["kind", "training_step"]),
    "unknown model": (set_field("payload.base_model", "gpt-17"), ["base_model", "gpt-17", "tiny-lm"]),
    "unknown field": (set_field("payload.batchsize", 8), ["payload.batchsize", "unknown field"]),
    "negative batch size": (
        set_field("payload.batch_size", -1),
        ["payload.batch_size", "-1", "greater than or equal to 1"],
    ),
    "rate that is none": (set_field("payload.optimizer.learning_rate", -1e-4), ["learning_rate", "greater than 0"]),
    "unknown loss": (
        set_field("payload.loss_fn", "crossentropy"),
        ["payload.loss_fn", "crossentropy", "cross_entropy"],
    ),
    "loss setting that is none": (
        set_field("payload.loss_fn_config", {"beta": "high"}),
        ["payload.loss_fn_config.beta", "high", "number"],
    ),
    "negative retries": (set_field("retry_policy.max_attempts", -3), ["retry_policy.max_attempts", "-3"]),
    "absurd retries": (set_field("retry_policy.max_attempts", 10**9), ["retry_policy.max_attempts", "10000"]),
    "never save": (
        set_field("payload.checkpoint_policy.save_every", 0),
        ["save_every", "greater than or equal to 1"],
    ),
    "unknown strategy": (set_field("payload.checkpoint_policy.strategy", "often"), ["strategy", "steps", "epoch"]),
    "unknown metric": (
        set_field("payload.checkpoint_policy", {"strategy": "best", "best_metric": "gradnorm"}),
        ["payload.checkpoint_policy.best_metric", "gradnorm", "did you mean grad_norm?", "loss, grad_norm"],
    ),
    "metric of an evaluation without one": (
        set_field("payload.checkpoint_policy", {"best_metric": "eval.loss"}),
        ["payload.checkpoint_policy.best_metric", "eval.loss", "no step or evaluation of this job gives it"],
    ),
    "early stopping without evaluations": (
        set_field("payload.early_stopping", {"patience": 2}),
        ["payload", "early_stopping", "add eval"],
    ),
    "split that leaves nothing": (
        set_field("payload.eval", {"split": 1e-9}),
        ["payload.eval.split", "leaves no example for evaluation"],
    ),
    "evaluation of nothing": (set_field("payload.eval", {"every": 5}), ["payload.eval", "either data", "split"]),
    "evaluation in environments": (
        set_field("payload.eval", {"tasks": [{"environment": "x"}]}),
        ["payload", "eval.tasks: sft is evaluated on examples"],
    ),
    "evaluation file that is missing": (
        set_field("payload.eval", {"data": {"path": "held-out.jsonl"}}),
        ["payload.eval.data.path", "held-out.jsonl"],
    ),
    "credential in the file": (set_field("metadata", {"api_key": "tml-secret"}), ["api_key", "environment"]),
    "unknown dependency": (
        set_field("constraints", {"depends_on": ["no-such-job"]}),
        ["depends_on", "no-such-job"],
    ),
}

DATA = {
    "missing": (None, ["conversations.jsonl"]),
    "empty": ("", ["conversations.jsonl", "empty"]),
    "not JSONL": ("once upon a time\n", ["line 1", "JSON"]),
    "broken line": ('{"text": "fine"}\n{"text": "fine"}\n{"text": \n{"text": "fine"}\n', ["line 3"]),
}


def assert_refused(cli: Cli, file: Path, words: list[str]) -> str:
    """Assert exit code 2, a message with all the words, no traceback and an empty store. Returns the message."""
    done = cli.run("submit", file)
    assert done.returncode == 2, done.stderr + done.stdout
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert cli.stored() == []
    return done.stderr


@pytest.mark.parametrize(("change", "words"), FIELDS.values(), ids=FIELDS.keys())
def test_wrong_field(
    cli: Cli, job: JobFields, job_file: Callable[[Any], Path], change: Change, words: list[str]
) -> None:
    """The message names the field, the value and what is allowed."""
    change(job)

    assert_refused(cli, job_file(job), words)


def test_a_batch_without_a_model_is_refused(cli: Cli, tmp_path: Path, job_file: Callable[[Any], Path]) -> None:
    """All such lines at once; the service's first model is never a silent choice."""
    prompts = tmp_path / "prompts.jsonl"
    rows = [{"prompt": "Hi", "options": {"model": "tiny-lm"}}, {"prompt": "Hi"}, {"prompt": "Hi", "options": {}}]
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    payload = {"input": {"path": str(prompts)}, "output": str(tmp_path / "answers.jsonl")}

    batch = {"kind": "inference", "backend": "fake", "payload": payload}

    assert_refused(
        cli,
        job_file(batch),
        ["payload.input.path", "line 2: has no model", "line 3: has no model", "options.model"],
    )


@pytest.mark.parametrize(("content", "words"), DATA.values(), ids=DATA.keys())
def test_wrong_data(
    cli: Cli,
    job: JobFields,
    conversations: Path,
    job_file: Callable[[Any], Path],
    content: str | None,
    words: list[str],
) -> None:
    """The message names the file, and the line if there is one."""
    if content is None:
        conversations.unlink()
    else:
        conversations.write_text(content)

    assert_refused(cli, job_file(job), words)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("kind: [", ["job.json", "line"]),
        ("!!python/object/apply:os.system ['true']", ["job.json"]),
    ],
    ids=["not YAML", "a tag that builds objects"],
)
def test_wrong_file(cli: Cli, job_file: Callable[[Any], Path], content: str, words: list[str]) -> None:
    """The message names the file."""
    assert_refused(cli, job_file(content), words)


def test_missing_file(cli: Cli, tmp_path: Path) -> None:
    """The message names the missing file."""
    assert_refused(cli, tmp_path / "nothing.yaml", ["nothing.yaml"])


def test_one_wrong_job_rejects_the_whole_file(cli: Cli, job: JobFields, job_file: Callable[[Any], Path]) -> None:
    """All jobs of a file are stored, or none."""
    wrong = json.loads(json.dumps(job))
    wrong["payload"]["batch_size"] = 0

    assert_refused(cli, job_file([job, wrong]), ["jobs[1]", "batch_size"])


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"TINKER_API_KEY": "tml-x", "TINKER_BASE_URL": "localhost:8000"}, ["TINKER_BASE_URL", "http"]),
        ({"TINKER_API_KEY": "tml-x", "TINKER_BASE_URL": "ftp://localhost"}, ["TINKER_BASE_URL", "http"]),
    ],
    ids=["no scheme", "wrong scheme"],
)
def test_wrong_service_settings(
    cli: Cli, job: JobFields, job_file: Callable[[Any], Path], variables: dict[str, str], words: list[str]
) -> None:
    """The message names the environment variable and never contains the key."""
    job["backend"] = "tinkex"

    message = assert_refused(Cli(cli.home, variables), job_file(job), words)

    assert "tml-x" not in message


def test_errors_as_json(cli: Cli, job: JobFields, job_file: Callable[[Any], Path]) -> None:
    """With --json, the error is a JSON object on stderr, and stdout is empty."""
    job["backend"] = "nonesuch"

    done = cli.run("submit", job_file(job), "--json")

    assert done.returncode == 2
    assert done.stdout == ""
    error = json.loads(done.stderr)["error"]
    assert error["code"] == "unknown_backend"
    assert "fake" in error["details"]["known"]


@pytest.mark.parametrize("command", ["show", "cancel"])
def test_unknown_job_is_3(cli: Cli, command: str) -> None:
    """Scripts can tell a missing job from an invalid call."""
    done = cli.run(command, "01900000-0000-7000-8000-000000000000")

    assert done.returncode == 3
    assert "01900000-0000-7000-8000-000000000000" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [["nonesuch"], ["list", "--status", "odd"]],
    ids=" ".join,
)
def test_wrong_call_is_2(cli: Cli, arguments: list[str]) -> None:
    """Unknown commands and invalid options are bad input."""
    assert cli.run(*arguments).returncode == 2
