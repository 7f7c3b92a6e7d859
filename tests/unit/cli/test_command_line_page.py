"""docs/reference/command-line.md has all commands, options and exit codes of the command line."""

import re
from collections.abc import Iterable
from pathlib import Path

import typer

from nsai_work.cli.app import app
from nsai_work.cli.exit_codes import ExitCode

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "command-line.md").read_text()
FIRST_TABLE = PAGE.partition("## For scripts")[0]


def commands() -> dict[str, list[str]]:
    """Return the options of every command, by its name; commands of a group have both names."""
    group = typer.main.get_command(app)
    context = group.make_context("nsai-work", [], resilient_parsing=True)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = {f"{name} {word}": command for word, command in getattr(command, "commands", {}).items()}
        for path, entry in (inner or {name: command}).items():
            found[path] = [option for parameter in entry.params for option in parameter.opts]
    return found


def command_of(row: str, known: Iterable[str]) -> str:
    """Return the command of a table row, without its arguments."""
    words = row.split("`")[1].split()
    return next((path for path in (" ".join(words[:2]), words[0]) if path in known), " ".join(words))


def test_every_command_is_described() -> None:
    """The page has each command, and no others."""
    known = commands()
    described = {command_of(row, known) for row in re.findall(r"^\| `[^`]+`", FIRST_TABLE, re.MULTILINE)}

    assert described == set(known)


def test_every_option_on_the_page_exists() -> None:
    """Each option in a command's row belongs to that command."""
    known = commands()
    for row in re.findall(r"^\| `[^|]+\|[^|]+\|$", FIRST_TABLE, re.MULTILINE):
        named = set(re.findall(r"`(--[a-z-]+)", row))
        assert named <= set(known[command_of(row, known)]), row


def test_every_exit_code_is_explained() -> None:
    """The page has each exit code, and no others."""
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert explained == {int(code) for code in ExitCode}
