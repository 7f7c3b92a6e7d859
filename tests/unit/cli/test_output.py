"""Tables and times on stdout."""

from datetime import UTC, datetime, timedelta

import pytest

from nsai_work.cli.output.stdout import write_fields, write_table
from nsai_work.presentation.quantities import ago

NOW = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s ago"), (59, "59 s ago"), (60, "1 min ago"), (7200, "2 h ago"), (200_000, "2 d ago"), (-5, "in 5 s")],
    ids=str,
)
def test_ago_uses_the_largest_unit_that_fits(seconds: int, text: str) -> None:
    """The number is never 0, except for seconds."""
    assert ago(NOW - timedelta(seconds=seconds), NOW) == text


def test_a_piped_table_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """Cells are printed in full."""
    write_table(("ID", "LOSS"), [("x" * 300, 0.123456789)], if_empty="none")

    assert "x" * 300 in capsys.readouterr().out


def test_brackets_are_not_markup(capsys: pytest.CaptureFixture[str]) -> None:
    """Text of users is not interpreted as markup."""
    write_table(("NAME",), [("[red]a[/red]",)], if_empty="none")

    assert "[red]a[/red]" in capsys.readouterr().out


def test_no_rows(capsys: pytest.CaptureFixture[str]) -> None:
    """An empty table prints a message."""
    write_table(("ID",), [], if_empty="no jobs")

    assert capsys.readouterr().out == "no jobs\n"


def test_a_name_cannot_break_its_row(capsys: pytest.CaptureFixture[str]) -> None:
    """Newlines and control characters in cells are escaped."""
    write_table(("NAME",), [("a\nb\x1b[2J",)], if_empty="none")

    assert capsys.readouterr().out.splitlines()[1] == "a\\nb\\x1b[2J"


def test_a_field_of_names_and_values_is_no_python(capsys: pytest.CaptureFixture[str]) -> None:
    """As the files of a download: names with their values, also within; an empty one is left out."""
    write_fields([("files", {"a.json": 218, "b": {"mean": 1 / 3, "ok": True}}), ("none", {})])

    assert capsys.readouterr().out == "files  a.json: 218, b: mean: 0.333333, ok: yes\n"
