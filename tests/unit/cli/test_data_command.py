"""``nsai-work data`` shows what is understood of a file, for people and for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from crucible.errors import InvalidRequest
from nsai_work.cli.app import app

TALK = {"messages": [{"role": "user", "content": "ab"}, {"role": "assistant", "content": "cd"}], "id": 7}


def run(*arguments: object) -> str:
    """Return what the command prints."""
    done = CliRunner().invoke(app, ["data", *map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Two good rows, the second longer, and two bad ones."""
    path = tmp_path / "rows.jsonl"
    rows = [TALK, {"text": "x" * 90}, {"prompt": "only"}, {"txt": "y"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_script_gets_every_count(file: Path) -> None:
    """And the rows in pieces with their weights."""
    found = json.loads(
        run(file, "--model", "tiny-lm", "--backend", "fake", "--max-tokens", 50, "--rows", 1, "--json")
    )
    lengths, problems = found.pop("lengths"), found.pop("bad_row_problems")
    assert sum(row["examples"] for row in lengths) == 2
    assert lengths[0]["from"] == 8
    assert lengths[-1]["to"] == 91
    assert [problem.split(":")[0] for problem in problems] == ["line 3", "line 4"]
    assert found == {
        "path": str(file),
        "formats": {"messages": 1, "text": 1},
        "rows": 4,
        "bad_rows": 2,
        "unused_fields": {"id": 1},
        "examples": 2,
        "split_rows": 0,
        "max_tokens": 50,
        "truncated_rows": 1,
        "skipped_rows": 0,
        "tokens_per_epoch": 58,
        "trained_tokens_per_epoch": 52,
        "shown": [
            {"line": 1, "pieces": [{"text": "ab", "weight": 0.0}, {"text": "cd", "weight": 1.0}]},
        ],
    }


def test_people_see_what_is_trained(file: Path) -> None:
    """Between marks; without a model, what was read."""
    shown = run(file, "--model", "tiny-lm", "--backend", "fake")
    assert "line 1: ab[[cd]]" in shown
    assert "line 4: fits no format" in shown
    assert "messages (1 rows), text (1 rows)" in shown
    assert "tokens" not in run(file)


def test_a_mode_of_training_changes_what_is_trained(file: Path) -> None:
    """All tokens of a conversation, instead of the answers."""
    found = json.loads(run(file, "--model", "tiny-lm", "--backend", "fake", "--train-on", "all_tokens", "--json"))
    assert found["trained_tokens_per_epoch"] > 90 + 4


def test_both_answers_of_a_pair_are_shown(tmp_path: Path) -> None:
    """Of a job file, which says that the rows are pairs."""
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"prompt": "q", "chosen": "good", "rejected": "bad"}) + "\n")
    payload = {"method": "dpo", "base_model": "tiny-lm", "data": {"path": "pairs.jsonl"}, "max_steps": 1}
    job = {"kind": "training_step", "backend": "fake", "payload": payload}
    for name, content in (("job.yaml", job), ("job.json", job), ("jobs.json", [job])):
        (tmp_path / name).write_text(json.dumps(content))
    found = json.loads(run(tmp_path / "job.yaml", "--json"))
    for name in ("job.json", "jobs.json"):
        assert json.loads(run(tmp_path / name, "--json")) == found
    assert (found["rows"], found["examples"], found["bad_rows"]) == (1, 1, 0)
    assert [[piece["text"] for piece in shown["pieces"] if piece["weight"]] for shown in found["shown"]] == [
        ["good"],
        ["bad"],
    ]


@pytest.mark.parametrize(
    "option", ["--model=tiny-lm", "--backend=tinkex", "--max-tokens=9", "--train-on=all_tokens"]
)
def test_what_a_job_file_says_is_no_option_too(tmp_path: Path, option: str) -> None:
    """It would be ignored, even where it is the default of other files."""
    (tmp_path / "job.yaml").write_text("{}")
    done = CliRunner().invoke(app, ["data", str(tmp_path / "job.yaml"), option])
    assert isinstance(done.exception, InvalidRequest)
    assert option.partition("=")[0] in done.exception.message
    assert "the job file says this; leave the option out" in done.exception.message


@pytest.mark.parametrize("option", [("--max-tokens", 50), ("--rows", 1), ("--backend", "fake")])
def test_what_needs_a_model_is_refused_without_one(file: Path, option: tuple[str, object]) -> None:
    """It changed nothing."""
    with pytest.raises(InvalidRequest, match=rf"^{option[0]}: .* it needs --model"):
        run(file, *option)
