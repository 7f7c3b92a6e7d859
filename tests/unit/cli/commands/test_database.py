"""``nsai-work db prune``: parsing of ages, and its output."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from crucible.errors import InvalidRequest
from nsai_work import Job, Settings, submit
from nsai_work.cli.app import app
from nsai_work.cli.commands.database import parse_age
from nsai_work.client.connections import close_connections
from nsai_work.worker import run_inline


@pytest.mark.parametrize(
    ("text", "age"),
    [
        ("30d", timedelta(days=30)),
        (" 12h ", timedelta(hours=12)),
        ("90min", timedelta(minutes=90)),
        ("8w", timedelta(weeks=8)),
    ],
)
def test_an_age_is_a_number_and_a_unit(text: str, age: timedelta) -> None:
    """Whitespace around an age is ignored."""
    assert parse_age(text) == age


def age_or_message(text: str) -> timedelta | str:
    """Parse an age. Returns the message if it is rejected."""
    try:
        return parse_age(text)
    except InvalidRequest as error:
        return error.message


@given(st.text(max_size=12) | st.from_regex(r"[0-9]{1,12}(min|h|d|w)", fullmatch=True))
def test_any_other_text_is_rejected(text: str) -> None:
    """No other exception is raised, and an accepted age is positive and at most a century."""
    found = age_or_message(text)

    assert "--older-than" in found if isinstance(found, str) else timedelta(0) < found <= timedelta(days=36_500)


@pytest.mark.parametrize("text", ["", "0d", "-1d", "30", "d", "1.5h", "1m", "99999999w", "٣d", "1d\n2d"])
def test_wrong_ages(text: str) -> None:
    """Months have no fixed length, digits are ASCII, and zero is not an age."""
    with pytest.raises(InvalidRequest, match="30d"):
        parse_age(text)


def test_a_dry_run_counts_and_a_run_deletes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job that has just ended is not old; text and JSON have the same numbers."""
    monkeypatch.setenv("NSAI_WORK_HOME", str(tmp_path))
    handle = submit(Job(kind="tool_call", backend="fake", payload={"command": "noop"}), Settings())
    run_inline([handle.id], Settings())

    counted = CliRunner().invoke(app, ["db", "prune", "--older-than", "1h", "--dry-run", "--json"])
    printed = CliRunner().invoke(app, ["db", "prune", "--older-than", "1h"])

    assert json.loads(counted.stdout) == {"older": 0, "with_checkpoints": 0, "forgotten": 0, "files": 0}
    assert "0 jobs deleted" in printed.stdout
    assert handle.status().ended
    close_connections()
