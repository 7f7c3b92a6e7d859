"""Plug-in commands."""

import json
import subprocess
import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import typer
from typer.testing import CliRunner

from crucible.errors import PluginError
from nsai_work.cli import plugin_commands
from nsai_work.cli.app import app

HEAVY = ("celery", "kombu", "sqlalchemy", "alembic", "numpy", "httpx", "starlette", "uvicorn", "stevedore")


def install(monkeypatch: pytest.MonkeyPatch, **targets: object) -> None:
    """Register commands as entry points of a fake module, and an entry point whose module is missing."""
    module = ModuleType("a_plugin")
    for name, target in targets.items():
        setattr(module, name, target)
    monkeypatch.setitem(sys.modules, "a_plugin", module)
    points = {name: EntryPoint(name, f"a_plugin:{name}", plugin_commands.GROUP) for name in targets}
    points["missing"] = EntryPoint("missing", "a_plugin_that_is_not_there:x", plugin_commands.GROUP)
    monkeypatch.setattr(plugin_commands, "plugin_commands", lambda: points)


def test_a_function_is_a_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plain function with typer parameters is a command."""

    def greet(name: str = "world") -> None:
        typer.echo(f"hello {name}")

    install(monkeypatch, greet=greet)

    assert CliRunner().invoke(app, ["greet", "--name", "you"]).output == "hello you\n"


def test_a_typer_app_is_a_group_of_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """A plug-in can provide several commands under one name."""
    tools = typer.Typer()
    tools.command("one")(lambda: typer.echo("1"))
    tools.command("two")(lambda: typer.echo("2"))
    install(monkeypatch, tools=tools)

    assert CliRunner().invoke(app, ["tools", "two"]).output == "2\n"


def test_a_plugin_cannot_replace_a_built_in_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Built-in commands take precedence."""
    install(monkeypatch, submit=lambda: typer.echo("hijacked"))

    assert "hijacked" not in CliRunner().invoke(app, ["submit", "--help"]).output


def test_a_broken_plugin_does_not_affect_other_commands(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other commands are listed and run; the broken command reports its import error."""
    install(monkeypatch, fine=lambda: typer.echo("fine"))
    runner = CliRunner(env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})

    helped = runner.invoke(app, ["--help"])
    broken = runner.invoke(app, ["missing", "--whatever", "x"])

    assert helped.exit_code == 0
    assert "failed to load" in helped.output
    assert runner.invoke(app, ["fine"]).output == "fine\n"
    assert isinstance(broken.exception, PluginError)
    assert "a_plugin_that_is_not_there" in str(broken.exception)


def test_help_is_light() -> None:
    """``nsai-work --help`` imports no heavy library, even with plug-in commands."""
    code = (
        "import sys, json\n"
        "from nsai_work.cli import main\n"
        "sys.argv = ['nsai-work', '--help']\n"
        "try:\n    main()\nexcept SystemExit: pass\n"
        f"sys.stderr.write(json.dumps([name for name in {HEAVY!r} if name in sys.modules]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert json.loads(done.stderr) == []
