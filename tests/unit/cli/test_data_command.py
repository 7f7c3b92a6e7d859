"""``nsai-work data`` shows what is understood of a file, for people and for scripts."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

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
