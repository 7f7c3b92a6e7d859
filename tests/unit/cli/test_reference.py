"""The page on the command line says what the command line does."""

import re
from pathlib import Path

import typer

from nsai_work.cli.app import app
from nsai_work.cli.exit_codes import ExitCode

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "command-line.md").read_text()
FIRST_TABLE = PAGE.partition("## For scripts")[0]


def commands() -> dict[str, list[str]]:
    """Every command, with the names of its options."""
    group = typer.main.get_command(app)
    context = group.make_context("nsai-work", [], resilient_parsing=True)
    found = {}
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        found[name] = [option for parameter in command.params for option in parameter.opts]
    return found


def test_every_command_is_described() -> None:
    """No more and no fewer."""
    described = {row.split()[0] for row in re.findall(r"^\| `([^`]+)`", FIRST_TABLE, re.MULTILINE)}

    assert described == set(commands())


def test_every_option_it_names_exists() -> None:
    """An option in a command's row is one of that command's."""
    for row in re.findall(r"^\| `[^|]+\|[^|]+\|$", FIRST_TABLE, re.MULTILINE):
        name = row.split("`")[1].split()[0]
        named = set(re.findall(r"`(--[a-z-]+)", row))
        assert named <= set(commands()[name]), row


def test_every_exit_code_is_explained() -> None:
    """With the numbers that the code uses."""
    explained = {int(code) for code in re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)}

    assert explained == {int(code) for code in ExitCode}
