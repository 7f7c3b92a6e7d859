"""Every argument and option of a command does something that a test shows; a new one fails here until it does."""

import json
import logging
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from backends.fake import FakeBackend
from crucible import Choice, Completion, FinishReason, Message, Prompt
from nsai_work.cli import main
from nsai_work.job import Job, Priority
from nsai_work.worker.probes.probe_server import Address
from tests.rig import command
from tests.unit.cli.test_command_line_page import commands
from tests.working_store import open_working_store

Call = Callable[..., str]

ROOT = Path(__file__).parents[3]
HERE = "unit/cli/test_every_option.py"
JOBS = "acceptance/test_job_commands.py"
WITHOUT = "acceptance/test_commands_without_jobs.py"
RUN = "acceptance/test_run_command.py"
PRUNE = "acceptance/test_prune_checkpoints.py"
ACTIONS = "unit/cli/commands/test_job_actions.py"
QUEUE = "unit/cli/commands/test_queue_state.py"
CURVES = "unit/cli/commands/test_curves.py"
DATA = "acceptance/test_data_forms.py"
LIMITS = "unit/cli/commands/test_limits.py"

SHOWN: dict[str, dict[str, str]] = {
    "run": {RUN: "target --json", DATA: "--no-check-data"},
    "submit": {JOBS: "file --wait --timeout --json", DATA: "--no-check-data", CURVES: "--set"},
    "plot": {CURVES: "job_id --tag --output --json"},
    "compare": {CURVES: "job_id --tag --json"},
    "list": {HERE: "--status --kind --backend --tenant --tag --limit --json", RUN: "--after"},
    "show": {JOBS: "job_id --json"},
    "steps": {JOBS: "job_id --json"},
    "evaluations": {JOBS: "job_id --json"},
    "extend": {"unit/cli/commands/test_extend.py": "job_id --steps --schedule --warmup-steps --checkpoint --json"},
    "rollouts": {"unit/cli/commands/test_rollouts.py": "job_id --step --evaluated --json"},
    "results": {"unit/cli/commands/test_results.py": "job_id file --json"},
    "checkpoints": {JOBS: "job_id --json"},
    "watch": {JOBS: "job_id --timeout --json"},
    "cancel": {JOBS: "job_id --json", ACTIONS: "--tag"},
    "retry": {JOBS: "job_id --json", ACTIONS: "--tag"},
    "promote": {JOBS: "job_id name --json"},
    "worker": {HERE: "--queue --concurrency --http", JOBS: "--json", "page/test_command.py": "--page"},
    "workers": {QUEUE: "--all --json"},
    "queue": {QUEUE: "--json"},
    "page": {"page/test_command.py": "--listen --name --json"},
    "doctor": {WITHOUT: "--json"},
    "backends": {WITHOUT: "name --json"},
    "complete": {
        HERE: "prompt --backend --model --system --max-tokens --temperature --top-p --seed --stop --json",
        WITHOUT: "--image",
        JOBS: "--checkpoint",
    },
    "serve": {"acceptance/test_serve_command.py": "--model --backend --checkpoint --port --key-file --json"},
    "download": {"acceptance/test_model_files.py": "job_id folder --checkpoint --max-gib --json"},
    "export": {
        "acceptance/test_model_files.py": "job_id",
        "acceptance/test_export.py": "folder --merge --base --dtype --checkpoint --max-gib --json",
    },
    "limits list": {LIMITS: "--json"},
    "limits tenant": {LIMITS: "tenant maximum --json"},
    "limits credential": {LIMITS: "credential maximum --model --json"},
    "db upgrade": {HERE: "--url --json"},
    "data": {"unit/cli/test_data_command.py": "file --model --backend --max-tokens --train-on --rows --json"},
    "shim": {"acceptance/test_shim.py": "command --restarts"},
    "db prune": {PRUNE: "--older-than --forget-checkpoints --delete-checkpoints --dry-run --json"},
}  # fmt: skip
"""The test file that shows each option, by command."""


PLUG_INS = {"demo", "dev-server"}
"""Commands of the package tinkex_dev, which have options of their own parser."""


def test_every_option_is_in_the_table() -> None:
    """And no other."""
    listed = {name: {word for words in files.values() for word in words.split()} for name, files in SHOWN.items()}
    assert listed == {name: {*options} for name, options in commands().items() if name in listed}
    own = {name for name in commands() if name not in listed}
    assert own <= PLUG_INS


@pytest.mark.parametrize("name", SHOWN)
def test_each_option_is_used_by_its_tests(name: str) -> None:
    """The file names the command and the option."""
    for file, options in SHOWN[name].items():
        text = (ROOT / "tests" / file).read_text()
        assert f'"{name.split()[-1]}"' in text, file
        assert [word for word in options.split() if word.startswith("--") and f'"{word}"' not in text] == [], file


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Call]:
    """Run ``nsai-work`` in this process, assert that it succeeds, and return its output."""
    handlers, level = logging.root.handlers[:], logging.root.level

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["nsai-work", *arguments])
        with pytest.raises(SystemExit) as exited:
            main()
        shown = capsys.readouterr()
        assert exited.value.code == 0, shown.err
        return shown.out

    yield run
    logging.root.handlers[:], logging.root.level = handlers, level


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--status", "canceled", ["canceled"]),
        ("--kind", "backend_command", ["kind"]),
        ("--backend", "python", ["backend"]),
        ("--tenant", "t2", ["tenant"]),
        ("--tag", "odd", ["tag"]),
        ("--limit", "1", ["newest"]),
    ],
)
def test_each_filter_of_a_list_leaves_out_the_other_jobs(
    call: Call, tmp_path: Path, option: str, value: str, expected: list[str]
) -> None:
    """Each job differs from the first in one field."""
    (tmp_path / "home").mkdir()
    store = open_working_store(f"sqlite:///{tmp_path / 'home' / 'nsai-work.db'}")
    different: dict[str, dict[str, Any]] = {
        "plain": {},
        "canceled": {},
        "kind": {"kind": "backend_command"},
        "backend": {"backend": "python", "payload": {"command": "tests.functions:add", "arguments": {}}},
        "tenant": {"tenant_id": "t2"},
        "tag": {"tags": ["odd"]},
        "newest": {},
    }
    for name, fields in different.items():
        store.submit(
            [
                Job.parse(
                    {
                        **command("noop").model_dump(mode="json", include={"kind", "backend", "payload"}),
                        "id": name,
                        **fields,
                    }
                )
            ]
        )
    store.request_cancel("canceled")
    store.close()

    assert [job["id"] for job in json.loads(call("list", option, value, "--json"))] == expected
    assert len(json.loads(call("list", "--json"))) == len(different)


def test_each_option_of_complete_is_in_the_prompt(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the backend receives it."""
    sent: list[Prompt] = []

    async def record(_: FakeBackend, prompt: Prompt) -> Completion:
        sent.append(prompt)
        answer = Message(role="assistant", content="yes")
        return Completion(choices=(Choice(message=answer, finish_reason=FinishReason.STOP),))

    monkeypatch.setattr(FakeBackend, "complete", record)
    given = ["complete", "Hi", "--backend", "fake", "--model", "tiny-lm", "--system", "Be brief.", "--seed", "7"]
    given += ["--max-tokens", "3", "--temperature", "0.5", "--top-p", "0.25", "--stop", "a", "--stop", "b"]

    assert json.loads(call(*given, "--json"))["choices"][0]["message"]["content"] == "yes"
    (prompt,) = sent
    assert (prompt.system, prompt.messages[-1].text()) == ("Be brief.", "Hi")
    assert prompt.options.model_dump(exclude_defaults=True) == {
        "model": "tiny-lm", "seed": 7, "max_tokens": 3, "temperature": 0.5, "top_p": 0.25, "stop": ("a", "b"),
    }  # fmt: skip


def test_a_worker_is_given_its_priorities_and_its_concurrency(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the options, all priorities and the setting."""
    begun: list[dict[str, Any]] = []
    monkeypatch.setattr("nsai_work.worker.run_worker", lambda _, **options: begun.append(options), raising=False)
    monkeypatch.setenv("NSAI_WORK_CONCURRENCY", "5")

    call("worker", "--queue", "interactive", "--queue", "offline", "--concurrency", "3", "--http", "[::1]:0")
    call("worker")
    assert begun == [
        {
            "queues": (Priority.INTERACTIVE, Priority.OFFLINE),
            "concurrency": 3,
            "on_ready": None,
            "http": Address("::1", 0),
        },
        {"queues": (*Priority,), "concurrency": 5, "on_ready": None, "http": None},
    ]


def test_the_database_that_is_named_is_upgraded(call: Call, tmp_path: Path) -> None:
    """And not the one of the settings."""
    other = tmp_path / "other.db"

    answer = json.loads(call("db", "upgrade", "--url", f"sqlite:///{other}", "--json"))
    assert answer["database"] == f"sqlite:///{other}"
    assert other.exists()
    assert not (tmp_path / "home" / "nsai-work.db").exists()
